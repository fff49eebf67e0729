//! CRC-32C (Castagnoli), which ext4 and XFS have in their inodes and blocks.

/// Goes on from `seed`, and is not inverted at the end, as ext4 has it; XFS begins with all ones, and inverts. A table of
/// 1 KiB: the inodes of a large tree are some 10 MiB.
pub(crate) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut value = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                value = value >> 1 ^ (0x82f6_3b78 * (value & 1));
                bit += 1;
            }
            table[byte] = value;
            byte += 1;
        }
        table
    };
    bytes.iter().fold(seed, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnoli_s() {
        // The check value of CRC-32C, from the catalogue of CRCs.
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(crc32c(!0, b"1234"), b"56789"), crc32c(!0, b"123456789"));
    }
}
