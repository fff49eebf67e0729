//! Whole reads and writes out of the kernel's partial ones.

use std::io;

/// Reads until `buf` is full or the end is reached; returns how many bytes were read.
///
/// `read` is told how far it is and given the rest. Direct I/O may only go on at a multiple of `unit` (1 elsewhere), so
/// a read that stopped inside a unit is asked again from that unit's beginning: if it stops there again, it is the end.
pub fn read_until_end(
    buf: &mut [u8],
    unit: usize,
    mut read: impl FnMut(usize, &mut [u8]) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match read(done, &mut buf[done..]) {
            Ok(0) => break,
            Ok(count) if done + count >= buf.len() => return Ok(buf.len()),
            Ok(count) if count < unit => return Ok(done + count),
            Ok(count) => done += count - count % unit,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `buf`, or fails. As in [`read_until_end`], it goes on at multiples of `unit` only.
pub(crate) fn write_all(
    buf: &[u8],
    unit: usize,
    mut write: impl FnMut(usize, &[u8]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match write(done, &buf[done..]) {
            Ok(count) if done + count >= buf.len() => return Ok(()),
            Ok(count) if count < unit => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => done += count - count % unit,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: [u8; 20] = *b"abcdefghijklmnopqrst";

    /// A reader that is interrupted every other time and gives at most `step` bytes.
    fn halting(step: usize) -> impl FnMut(usize, &mut [u8]) -> io::Result<usize> {
        let mut calls = 0;
        move |at, buf| {
            calls += 1;
            if calls % 2 == 1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let count = SOURCE.len().saturating_sub(at).min(step).min(buf.len());
            buf[..count].copy_from_slice(&SOURCE[at..at + count]);
            Ok(count)
        }
    }

    #[test]
    fn short_and_interrupted_reads_become_whole_ones() {
        for step in [1, 3, 7, 20] {
            let mut buf = [0; 20];
            assert_eq!(read_until_end(&mut buf, 1, halting(step)).expect("no failure"), 20);
            assert_eq!(buf, SOURCE);
        }
    }

    #[test]
    fn a_read_that_stops_inside_a_unit_goes_on_at_its_beginning() {
        let mut places = Vec::new();
        let mut buf = [0; 32];
        let mut reader = halting(7);
        let count = read_until_end(&mut buf, 4, |at, buf| {
            places.push(at);
            reader(at, buf)
        });
        // 20 bytes are there: five units of 4, all delivered although each read stops at 7.
        assert_eq!(count.expect("no failure"), 20);
        assert_eq!(&buf[..20], &SOURCE);
        assert!(places.iter().all(|at| at % 4 == 0), "{places:?}");
    }

    #[test]
    fn an_end_inside_a_unit_is_an_end() {
        let mut buf = [0; 64];
        let count = read_until_end(&mut buf, 16, |at, buf| {
            let count = SOURCE.len().saturating_sub(at).min(buf.len());
            buf[..count].copy_from_slice(&SOURCE[at..at + count]);
            Ok(count)
        });
        assert_eq!(count.expect("no failure"), 20);
    }

    #[test]
    fn short_and_interrupted_writes_become_whole_ones() {
        for (unit, step) in [(1, 1), (1, 6), (4, 7), (4, 20)] {
            let (mut target, mut calls) = ([0; 20], 0);
            let result = write_all(&SOURCE, unit, |at, rest| {
                calls += 1;
                if calls % 2 == 0 {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                assert_eq!(at % unit, 0);
                let count = rest.len().min(step);
                target[at..at + count].copy_from_slice(&rest[..count]);
                Ok(count)
            });
            result.expect("no failure");
            assert_eq!(target, SOURCE);
        }
    }

    #[test]
    fn a_write_that_makes_no_progress_fails_instead_of_spinning() {
        for stuck in [0, 3] {
            let error = write_all(&SOURCE, 4, |_, _| Ok(stuck)).expect_err("no progress");
            assert_eq!(error.kind(), io::ErrorKind::WriteZero);
        }
    }

    #[test]
    fn other_errors_come_through() {
        let broken = || io::Error::other("broken");
        assert!(read_until_end(&mut [0; 4], 1, |_, _| Err(broken())).is_err());
        assert!(write_all(&[0; 4], 1, |_, _| Err(broken())).is_err());
    }
}
