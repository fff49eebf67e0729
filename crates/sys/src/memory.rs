//! How much memory there is, from the kernel's table (`/proc/meminfo`).

/// What the table says, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All that the kernel manages.
    pub total: u64,
    /// What it could give to somebody now, the caches that it would let go of included.
    pub available: u64,
}

/// One line of the table, in bytes.
pub fn line(table: &str, name: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Reads the table; nothing if it does not say both.
pub fn parse(table: &str) -> Option<Memory> {
    Some(Memory { total: line(table, "MemTotal")?, available: line(table, "MemAvailable")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_in_bytes() {
        let table = "MemTotal:        2014112 kB\nMemFree: 1 kB\nMemAvailable:    1500000 kB\n";
        assert_eq!(parse(table), Some(Memory { total: 2_062_450_688, available: 1_536_000_000 }));
        for wrong in ["", "MemTotal: 1 kB\n", "MemTotal: 1 kB\nMemAvailable: x kB\n", "MemTotal: 1\nMemAvailable: 1 kB"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert_eq!(line("MemAvailable: 18446744073709551615 kB", "MemAvailable"), None, "more than fits");
    }
}
