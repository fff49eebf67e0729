//! What formats something: lines of scripts, units, cloud-init's user-data, Ignition's and systemd's configuration.
//!
//! Told by words, not by understanding: a line that only mentions `mkfs` counts too, because a data disk that is formatted
//! by mistake is gone, and a person who knows better can say so.

use std::io::Read;

use ct_codecs::{Base64, Decoder};
use model::manifest::Formats;

/// Lines named of one file: one is reason enough.
const LINES_MAX: usize = 8;
/// A longer line is shortened.
const LINE_CHARS_MAX: usize = 120;
/// User-data has at most 16 KiB on most clouds; unpacked, a hundred times as much is still user-data.
const UNPACKED_BYTES_MAX: u64 = 4 << 20;
/// Parts within parts.
const DEPTH_MAX: u32 = 4;

/// Programs that format whatever they are called with. Not `lvcreate`: it takes what is free, and Debian's e2scrub has it.
const FORMATTERS: [&str; 13] = [
    "mke2fs",
    "mkswap",
    "wipefs",
    "sgdisk",
    "sfdisk",
    "fdisk",
    "blkdiscard",
    "pvcreate",
    "vgcreate",
    "systemd-makefs",
    "systemd-repart",
    "make-bcache",
    "bcachefs",
];
/// Programs that do so when one of these words follows.
const WITH_WORD: [(&str, &[&str]); 7] = [
    ("mdadm", &["--create", "-C", "--zero-superblock"]),
    ("cryptsetup", &["luksFormat", "reencrypt", "erase", "luksErase"]),
    ("parted", &["mklabel", "mktable", "mkpart", "rm"]),
    ("zpool", &["create", "labelclear"]),
    ("nvme", &["format", "sanitize", "delete-ns"]),
    ("shred", &["/dev/"]),
    ("badblocks", &["-w"]),
];
/// Words with which they only show what is there.
const ONLY_SHOWS: [&str; 6] = ["-l", "--list", "-d", "--dump", "-p", "--print"];
/// Keys of cloud-init's configuration, and of Ignition's.
const CLOUD_KEYS: [&str; 2] = ["fs_setup", "disk_setup"];
const IGNITION_KEYS: [&str; 4] = ["filesystems", "disks", "raid", "luks"];

/// The lines of `text` that format something, each under the name of its file.
pub fn formats(file: &str, text: &str) -> Vec<Formats> {
    let is_ignition = text.contains("\"ignition\"");
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let found = lines.filter(|line| {
        // JSON may stand on one line.
        is_formatting(line) || has_key(line, &CLOUD_KEYS) || (is_ignition && has_key(line, &IGNITION_KEYS))
    });
    let shortened = |line: &str| match line.char_indices().nth(LINE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    };
    found.take(LINES_MAX).map(|line| Formats { file: file.to_owned(), line: shortened(line) }).collect()
}

fn is_formatting(line: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_./-+=".contains(c);
    let words: Vec<&str> = line.split(|c: char| !is_part(c)).filter(|word| !word.is_empty()).collect();
    let shows = words.iter().any(|word| ONLY_SHOWS.contains(word));
    words.iter().any(|word| {
        let after_assignment = word.rsplit_once('=').map_or(*word, |(_, value)| value);
        let program = after_assignment.rsplit('/').next().unwrap_or(after_assignment);
        let with_word = WITH_WORD.iter().find(|(name, _)| *name == program);
        program == "mkfs"
            || program.starts_with("mkfs.")
            || program == "x-systemd.makefs"
            || (FORMATTERS.contains(&program) && !shows)
            || with_word
                .is_some_and(|(_, with)| words.iter().any(|word| with.iter().any(|with| word.starts_with(with))))
            || word.strip_prefix("of=/dev/").is_some_and(|device| !matches!(device, "null" | "stdout" | "stderr"))
    })
}

/// Whether one of `keys` has a value in this line of YAML or JSON, or begins one.
fn has_key(line: &str, keys: &[&str]) -> bool {
    keys.iter().any(|key| {
        line.match_indices(key).any(|(at, _)| {
            let is_whole = !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            let rest = line[at + key.len()..].trim_start_matches(['"', '\'']).trim_start();
            let value = rest.strip_prefix(':').map(str::trim_start);
            let is_empty = |value: &str| ["[]", "{}", "null", "~"].iter().any(|empty| value.starts_with(empty));
            is_whole && value.is_some_and(|value| !is_empty(value))
        })
    })
}

/// What formats something in user-data or vendor-data as a machine has it: plain, compressed, in parts, and with files
/// to be written that are encoded. What cannot be read is an error: it could be anything.
pub fn user_data(file: &str, bytes: &[u8]) -> Result<Vec<Formats>, String> {
    let mut found = Vec::new();
    look_into(file, bytes, 0, &mut found)?;
    found.dedup();
    found.truncate(LINES_MAX);
    Ok(found)
}

fn look_into(file: &str, bytes: &[u8], depth: u32, found: &mut Vec<Formats>) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("{file} has parts within parts, more than {DEPTH_MAX} deep"));
    }
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = Vec::new();
        let mut reader = flate2::read::MultiGzDecoder::new(bytes).take(UNPACKED_BYTES_MAX + 1);
        reader.read_to_end(&mut unpacked).map_err(|why| format!("{file} cannot be unpacked: {why}"))?;
        if unpacked.len() as u64 > UNPACKED_BYTES_MAX {
            return Err(format!("{file} is longer than {UNPACKED_BYTES_MAX} bytes when it is unpacked"));
        }
        return look_into(file, &unpacked, depth + 1, found);
    }
    if bytes.contains(&0) {
        return Err(format!("{file} is neither a text nor compressed with gzip"));
    }
    let text = String::from_utf8_lossy(bytes);
    found.extend(formats(file, &text));
    for part in encoded(&text) {
        // What only looks encoded is text, and was looked at as such.
        if let Ok(decoded) = Base64::decode_to_vec(part, None) {
            // A file to be written may be a program or a picture: only a text can tell anything.
            match look_into(file, &decoded, depth + 1, found) {
                Err(why) if depth >= DEPTH_MAX => return Err(why),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Everything that may be base64: runs of lines, or ends of lines, of its letters only.
fn encoded(text: &str) -> Vec<String> {
    /// Shorter ones hold no command; words of a language are mostly shorter.
    const CHARS_MIN: usize = 16;
    let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    let mut runs = Vec::new();
    let mut run = String::new();
    for line in text.lines().map(str::trim) {
        let word = line.rsplit([' ', '\t', ',', ':']).next().unwrap_or_default();
        let word = word.trim_matches(['"', '\'', '}', ']', '[', '{']);
        let is_encoded = !word.is_empty() && word.chars().all(is_letter);
        let is_whole_line = is_encoded && word.len() == line.len();
        if !is_whole_line {
            runs.push(std::mem::take(&mut run));
        }
        if is_encoded {
            run.push_str(word);
        }
        if !is_whole_line {
            runs.push(std::mem::take(&mut run));
        }
    }
    runs.push(run);
    runs.retain(|run| run.len() >= CHARS_MIN);
    runs
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use ct_codecs::Encoder;

    use super::*;

    fn found(text: &str) -> usize {
        formats("f", text).len()
    }

    /// Debian's own scripts speak of volumes that they would look through, on every machine.
    #[test]
    fn a_stock_debian_formats_nothing() {
        let e2scrub = "if ! type lvcreate >& /dev/null ; then\n\techo \"e2scrub_all: can't find lvcreate --- is lvm2 installed?\"\n\
                       snap_dev=\"$(lvcreate -s -L \"${snap_size_mb}m\" -n \"${snap}\" \"${LVM2_VG_NAME}/${LVM2_LV_NAME}\")\"\n";
        assert_eq!(formats("/sbin/e2scrub_all", e2scrub), []);
    }

    #[test]
    fn whatever_formats_is_seen() {
        for line in [
            "mkfs.ext4 -F /dev/vdb",
            "  - [ mkfs, -t, xfs, /dev/nvme1n1 ]",
            "/sbin/mke2fs /dev/sdb",
            "ExecStart=/usr/sbin/mkfs.xfs /dev/sdb",
            "mdadm --create /dev/md0 --level=0 --raid-devices=2 /dev/vdb /dev/vdc",
            "mdadm -C /dev/md0",
            "cryptsetup -q luksFormat /dev/vdb key",
            "test -b /dev/sdb && wipefs -a /dev/sdb",
            "parted -s /dev/sdb mklabel gpt",
            "dd if=/dev/zero of=/dev/vdb bs=1M",
            "fs_setup:",
            "disk_setup: {/dev/vdb: {table_type: gpt}}",
            "{\"fs_setup\": [{\"device\": \"/dev/vdb\"}]}",
            "/dev/vdb /data ext4 x-systemd.makefs 0 2",
            "LABEL=data /data xfs defaults,x-systemd.makefs,nofail 0 2",
            "zpool create tank /dev/vdb",
        ] {
            assert_eq!(found(line), 1, "{line}");
        }
        let ignition =
            "{\"ignition\": {\"version\": \"3.0.0\"},\n\"storage\": {\"filesystems\": [{\"wipeFilesystem\": true}]}}";
        assert_eq!(found(ignition), 1);
    }

    #[test]
    fn what_formats_nothing_is_left_alone() {
        for line in [
            "# mkfs.ext4 /dev/vdb",
            " - disk_setup",
            "fs_setup: []",
            "packages: [xfsprogs, mdadm, e2fsprogs]",
            "mdadm --assemble --scan",
            "sfdisk -d /dev/sda > table",
            "After=systemd-repart.service",
            "dd if=/dev/sda of=/dev/null",
            "my_fs_setup: x",
            "cryptsetup open /dev/vdb data",
            "\"filesystems\": [\"ext4\"]",
        ] {
            assert_eq!(found(line), 0, "{line}");
        }
    }

    #[test]
    fn lines_are_counted_and_shortened() {
        assert_eq!(found(&"mkfs /dev/vdb\n".repeat(50)), LINES_MAX);
        let long = format!("mkfs {}", "é".repeat(500));
        assert_eq!(formats("f", &long)[0].line.chars().count(), LINE_CHARS_MAX + 1);
    }

    fn packed(text: &str) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn user_data_is_read_plain_compressed_in_parts_and_with_encoded_files() {
        let script = "#!/bin/sh\nmkfs.ext4 /dev/vdb\n";
        let encoded = |bytes: &[u8]| Base64::encode_to_string(bytes).unwrap();
        let wrapped = |bytes: &[u8]| {
            let text = encoded(bytes);
            text.as_bytes()
                .chunks(20)
                .map(|line| String::from_utf8_lossy(line).into_owned())
                .collect::<Vec<_>>()
                .join("\n")
        };
        let parts = format!(
            "Content-Type: multipart/mixed; boundary=\"b\"\n\n--b\nContent-Transfer-Encoding: base64\n\n{}\n--b--\n",
            wrapped(script.as_bytes())
        );
        let file =
            format!("#cloud-config\nwrite_files:\n- encoding: gz+b64\n  content: {}\n", encoded(&packed(script)));
        let block = format!("write_files:\n- encoding: b64\n  content: |\n    {}\n", encoded(script.as_bytes()));
        for (what, bytes) in [
            ("plain", script.as_bytes().to_vec()),
            ("compressed", packed(script)),
            ("parts", parts.into_bytes()),
            ("a file", file.into_bytes()),
            ("a block", block.into_bytes()),
        ] {
            assert_eq!(user_data("u", &bytes).unwrap().len(), 1, "{what}");
        }
        let harmless = "#cloud-config\nssh_authorized_keys:\n - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOpq me@here\n";
        assert_eq!(user_data("u", harmless.as_bytes()).unwrap(), []);
    }

    #[test]
    fn user_data_that_cannot_be_read_is_an_error() {
        let mut cut = packed(&"a long text ".repeat(100));
        cut.truncate(20);
        assert!(user_data("u", &cut).unwrap_err().contains("cannot be unpacked"));
        assert!(user_data("u", b"\0\x01\x02").unwrap_err().contains("neither a text"));
        assert!(user_data("u", &packed(&" ".repeat(5 << 20))).unwrap_err().contains("longer than"));
    }
}
