//! Makes a disk equal to an image: compare, log, stage, write, prove; and puts the old disk back.
