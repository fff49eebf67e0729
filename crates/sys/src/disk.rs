//! Block devices and files as disks.
