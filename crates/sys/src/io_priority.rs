//! How urgent a thread's reads and writes are.

#![allow(unsafe_code, reason = "no crate has the call")]

use std::io;

/// From now on this thread's I/O waits for that of everybody else. Schedulers that know no priorities (`none`) take no
/// notice; threads that it starts later inherit it.
pub fn be_idle() -> io::Result<()> {
    /// `IOPRIO_WHO_PROCESS` of `linux/ioprio.h`; with 0, the calling thread.
    const WHO: libc::c_int = 1;
    /// `IOPRIO_CLASS_IDLE`, above the 13 bits of a level that this class does not have.
    const IDLE: libc::c_int = 3 << 13;
    // SAFETY: the call takes three numbers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO, 0 as libc::c_int, IDLE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_becomes_idle_and_the_others_stay() {
        // SAFETY: as above: numbers only.
        let class = || unsafe { libc::syscall(libc::SYS_ioprio_get, 1 as libc::c_int, 0 as libc::c_int) } >> 13;
        let before = class();
        let idle = thread::spawn(move || {
            be_idle().expect("everybody may");
            class()
        });
        assert_eq!(idle.join().expect("no panic"), 3);
        assert_eq!(class(), before);
    }
}
