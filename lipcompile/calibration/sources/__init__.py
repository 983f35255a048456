"""What calibration reads: folders, lists, array files, iterables and readers, as samples."""
