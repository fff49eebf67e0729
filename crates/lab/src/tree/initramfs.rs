//! An initramfs: an archive in `cpio`'s "newc" format, which is what Linux unpacks
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

/// An archive that grows file by file.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    count: u32,
}

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const CONSOLE: u32 = 0o020_600;

impl Archive {
    /// Adds a folder; what it stands in must have been added before.
    pub(super) fn folder(&mut self, name: &str) {
        self.entry(name, FOLDER, (0, 0), &[]);
    }

    /// Adds a file that may be executed.
    pub(super) fn file(&mut self, name: &str, bytes: &[u8]) {
        self.entry(name, PROGRAM, (0, 0), bytes);
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, name: &str, target: &str) {
        self.entry(name, LINK, (0, 0), target.as_bytes());
    }

    /// The archive, with the device `/dev/console`, without which its `init` would have no standard output.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.folder("dev");
        self.entry("dev/console", CONSOLE, (5, 1), &[]);
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), bytes: &[u8]) {
        self.count += 1;
        let size = u32::try_from(bytes.len()).expect("a file of less than 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("a name of less than 4 GiB");
        // Inode, mode, owner, group, links, time, size, device of the file, device that it is, size of the name, checksum.
        let fields = [self.count, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0]
            .map(|field| format!("{field:08x}"));
        self.bytes.extend(format!("070701{}{name}\0", fields.concat()).bytes());
        self.pad();
        self.bytes.extend(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_as_the_kernel_documents_it() {
        let mut archive = Archive::default();
        archive.file("init", b"#!x\nab");
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[14..22], b"000081ed", "the mode");
        assert_eq!(&bytes[54..62], b"00000006", "the size");
        // The header has 110 bytes; header and name are padded to 116, the content to 8.
        assert_eq!(&bytes[110..124], b"init\0\0#!x\nab\0\0");
        assert_eq!(&bytes[124..130], b"070701");
        let end = b"TRAILER!!!\0";
        assert!(bytes.windows(end.len()).any(|window| window == end));
    }
}
