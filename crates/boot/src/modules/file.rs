//! A module's or firmware's file: decompressed, and what a module says of itself.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::error::{Error, Result};

/// No module and no firmware is larger; a compressed file that claims to be would only eat the memory.
const LENGTH_MAX: u64 = 256 << 20;

/// The endings of compressed files.
pub(super) const COMPRESSED: [&str; 3] = ["xz", "zst", "gz"];

/// A file's content, decompressed by its ending.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    read_at_most(path, LENGTH_MAX)
}

fn read_at_most(path: &Path, length_max: u64) -> Result<Vec<u8>> {
    let failed = |source| Error::file("reading", path)(source);
    let file = File::open(path).map_err(failed)?;
    let ending = path.extension().and_then(|ending| ending.to_str());
    let reader: Box<dyn Read> = match ending {
        Some("xz") => Box::new(liblzma::read::XzDecoder::new(file)),
        Some("zst") => Box::new(zstd::stream::read::Decoder::new(file).map_err(failed)?),
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(file)),
        _ => Box::new(file),
    };
    let mut content = Vec::new();
    reader.take(length_max + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > length_max {
        return Err(failed(io::Error::other(format!("it is longer than {length_max} bytes"))));
    }
    Ok(content)
}

/// Every value of `key` in a module's `.modinfo`; none if this is no module.
pub(super) fn information<'a>(module: &'a [u8], key: &str) -> Vec<&'a str> {
    let section = section(module, b".modinfo").unwrap_or_default();
    let texts = section.split(|byte| *byte == 0).filter_map(|text| std::str::from_utf8(text).ok());
    texts.filter_map(|text| text.strip_prefix(key)?.strip_prefix('=')).collect()
}

/// A section of a 64-bit ELF file.
fn section<'a>(elf: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let header = elf.get(..64)?;
    if header[..4] != *b"\x7fELF" || header[4] != 2 {
        return None;
    }
    let is_big = header[5] == 2;
    let number = |bytes: &[u8]| {
        let digits = bytes.iter().map(|byte| u64::from(*byte));
        let sum = |sum: u64, digit: u64| sum << 8 | digit;
        if is_big { digits.fold(0, sum) } else { digits.rev().fold(0, sum) }
    };
    let (table, size) = (number(&header[40..48]), number(&header[58..60]));
    let (count, names) = (number(&header[60..62]), number(&header[62..64]));
    let describe = |index: u64| {
        let begin = usize::try_from(table.checked_add(index.checked_mul(size)?)?).ok()?;
        elf.get(begin..begin.checked_add(64)?)
    };
    let content = |described: &[u8]| {
        let begin = usize::try_from(number(&described[24..32])).ok()?;
        let length = usize::try_from(number(&described[32..40])).ok()?;
        elf.get(begin..begin.checked_add(length)?)
    };
    let all_names = content(describe(names)?)?;
    (0..count).filter_map(describe).find_map(|described| {
        let its_name = all_names.get(number(&described[..4]) as usize..)?;
        let is_it = its_name.starts_with(name) && its_name.get(name.len()) == Some(&0);
        if is_it { content(described) } else { None }
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    /// The smallest ELF file that has a `.modinfo`.
    pub(in crate::modules) fn module(information: &[&str]) -> Vec<u8> {
        let mut modinfo: Vec<u8> = information.iter().flat_map(|text| [text.as_bytes(), b"\0"].concat()).collect();
        modinfo.resize(modinfo.len().next_multiple_of(8), 0);
        let names = b"\0.modinfo\0.names\0\0\0\0\0\0\0\0";
        let (at_names, table) = (64 + modinfo.len(), 64 + modinfo.len() + names.len());
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[40..48].copy_from_slice(&(table as u64).to_le_bytes());
        elf[58..64].copy_from_slice(&[64, 0, 3, 0, 2, 0]);
        elf.extend_from_slice(&modinfo);
        elf.extend_from_slice(names);
        elf.extend_from_slice(&[0; 64]);
        for (name, begin, length) in [(1_u32, 64, modinfo.len()), (10, at_names, names.len())] {
            let mut described = [0; 64];
            described[..4].copy_from_slice(&name.to_le_bytes());
            described[24..32].copy_from_slice(&(begin as u64).to_le_bytes());
            described[32..40].copy_from_slice(&(length as u64).to_le_bytes());
            elf.extend_from_slice(&described);
        }
        elf
    }

    #[test]
    fn a_module_says_which_firmware_it_wants() {
        let module = module(&["license=GPL", "firmware=a/b.bin", "firmware=c", "firmwares=not"]);
        assert_eq!(information(&module, "firmware"), ["a/b.bin", "c"]);
        assert_eq!(information(&module, "license"), ["GPL"]);
        assert_eq!(information(&module, "alias"), Vec::<&str>::new());
        assert_eq!(information(b"not a module", "license"), Vec::<&str>::new());
    }

    proptest! {
        #[test]
        fn no_damage_is_too_odd(cut in 0_usize..400, at in 0_usize..400, byte: u8) {
            let mut module = module(&["firmware=a", "license=GPL"]);
            let place = at % module.len();
            module[place] = byte;
            module.truncate(cut);
            information(&module, "firmware");
        }
    }

    #[test]
    fn compressed_files_are_read_by_their_ending() {
        let directory = tempfile::tempdir().expect("a directory");
        let content = b"content ".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&content).expect("packed");
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&content).expect("packed");
        let packed = [
            ("a.ko", content.clone()),
            ("a.ko.gz", gzip.finish().expect("packed")),
            ("a.ko.xz", xz.finish().expect("packed")),
            ("a.ko.zst", zstd::stream::encode_all(&content[..], 1).expect("packed")),
        ];
        for (name, bytes) in packed {
            let path = directory.path().join(name);
            fs::write(&path, &bytes).expect("written");
            assert_eq!(read(&path).expect(name), content, "{name}");
            assert!(read_at_most(&path, 7999).is_err(), "{name} is longer than that");
            fs::write(&path, &bytes[..bytes.len() - 9]).expect("written");
            assert_ne!(read(&path).ok().as_deref(), Some(&content[..]), "{name} was cut off");
        }
        read(&directory.path().join("none.ko")).expect_err("not there");
    }
}
