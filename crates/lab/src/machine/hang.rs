//! Hanging a machine's kernel: by QEMU's debugger, which stops the processor and writes into the kernel's text.
//!
//! Only what of the protocol this takes is here (GDB's manual, "Remote Protocol").

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result, io};

/// `jmp .`
const FOR_EVER: &str = "ebfe";
/// `cli`, and then the same: it takes no interrupt any more, so no timer either.
const DEAF_FOR_EVER: &str = "faebfe";
/// Where the registers' bytes have what counts: behind sixteen of eight bytes comes where the processor is, then its flags.
const RIP: usize = 16 * 8;
const FLAGS: usize = RIP + 8;
/// The flag without which no interrupt is taken.
const INTERRUPTS: u64 = 1 << 9;
/// How often a processor may be found elsewhere than in the kernel with interrupts on.
const LOOKS: u32 = 500;
const PAUSE: Duration = Duration::from_millis(5);

/// A debugger's connection. While it is open and nothing goes on, the machine stands still.
struct Debugger(UnixStream);

/// Makes the kernel of the machine behind `socket` loop for ever where it is. With interrupts on, timers go on, and nothing
/// else does; when it is deaf, nothing at all goes on.
pub(super) fn hang(socket: &Path, is_deaf: bool) -> Result<()> {
    let code = if is_deaf { DEAF_FOR_EVER } else { FOR_EVER };
    let stream = UnixStream::connect(socket).map_err(io("connecting to", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(io("setting up", socket.display()))?;
    let mut debugger = Debugger(stream);
    for _ in 0..LOOKS {
        let (rip, flags) = debugger.place()?;
        // The kernel has the upper half of all addresses.
        if rip >> 63 == 1 && flags & INTERRUPTS != 0 {
            let said = debugger.ask(&format!("M{rip:x},{}:{code}", code.len() / 2))?;
            if said != "OK" {
                return Err(Error::Senseless(format!("writing to {rip:x} gave {said:?}")));
            }
            return debugger.ask("D").map(drop);
        }
        debugger.send("c")?;
        thread::sleep(PAUSE);
        debugger.write(&[3])?;
        debugger.answer()?;
    }
    Err(Error::Senseless("the processor was never seen in the kernel".into()))
}

impl Debugger {
    fn ask(&mut self, what: &str) -> Result<String> {
        self.send(what)?;
        loop {
            let answer = self.answer()?;
            // That the machine stands still, which it does since the connection was made, is said when QEMU likes.
            if !answer.starts_with('T') {
                return Ok(answer);
            }
        }
    }

    /// Where the processor is, and its flags. Bytes come in the machine's order.
    fn place(&mut self) -> Result<(u64, u64)> {
        let said = self.ask("g")?;
        let number = |from: usize, length: usize| {
            let byte = |at: usize| u8::from_str_radix(said.get(2 * at..2 * at + 2)?, 16).ok();
            (from..from + length).rev().try_fold(0, |number, at| Some(number << 8 | u64::from(byte(at)?)))
        };
        let place = number(RIP, 8).zip(number(FLAGS, 4));
        place.ok_or_else(|| Error::Senseless(format!("the debugger says {said:?} of its registers")))
    }

    fn send(&mut self, what: &str) -> Result<()> {
        self.write(format!("${what}#{:02x}", sum(what.as_bytes())).as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).map_err(io("writing to", "the debugger"))
    }

    /// The next answer. What was sent is confirmed by a sign of its own, and so is what is received.
    fn answer(&mut self) -> Result<String> {
        let mut answer = Vec::new();
        let mut byte = [0];
        loop {
            self.0.read_exact(&mut byte).map_err(io("reading from", "the debugger"))?;
            match byte[0] {
                b'#' => break,
                b'$' => answer.clear(),
                b'+' if answer.is_empty() => {}
                other => answer.push(other),
            }
        }
        self.0.read_exact(&mut [0; 2]).map_err(io("reading from", "the debugger"))?;
        self.write(b"+")?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_carries_its_sum() {
        assert_eq!(sum(b"OK"), 0x9a);
        assert_eq!(sum(b""), 0);
    }

    /// What is answered is as of QEMU: the processor is in a program first, and in the kernel then.
    #[test]
    fn the_kernel_is_hung_where_it_is_and_no_program() {
        for (is_deaf, written) in [(false, "Mffffffff81001000,2:ebfe"), (true, "Mffffffff81001000,3:faebfe")] {
            hung(is_deaf, written);
        }
    }

    fn hung(is_deaf: bool, written: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let registers = |rip: &str, flags: &str| format!("{}{rip}{flags}{}", "00".repeat(RIP), "00".repeat(40));
        let program = registers("0010000000000000", "02020000");
        let kernel = registers("00100081ffffffff", "02020000");
        let answers = [program, "T02".into(), kernel, "OK".into(), "OK".into()];
        let stub = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut debugger = Debugger(stream);
            let mut heard = Vec::new();
            debugger.send("T05thread:01;").unwrap();
            for answer in answers {
                // An interrupt is a byte without a frame, behind the order to go on.
                heard.push(debugger.answer().unwrap());
                if heard.last().is_some_and(|last| last == "c") {
                    debugger.0.read_exact(&mut [0]).unwrap();
                }
                debugger.send(&answer).unwrap();
            }
            (heard, debugger)
        });
        hang(&path, is_deaf).unwrap();
        let (heard, _open) = stub.join().unwrap();
        assert_eq!(heard, ["g", "c", "g", written, "D"]);
    }
}
