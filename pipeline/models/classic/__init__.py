"""Classic architectures small enough to read in one sitting, one file each."""
