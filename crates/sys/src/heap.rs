//! Memory that was freed, and that the allocator keeps.

#![allow(unsafe_code, reason = "the allocator's own call")]

/// Hands memory that nobody uses any more back to the kernel.
///
/// For who has freed very much that the process will not need again: glibc keeps it, for each group of threads its own. It
/// goes through all that is free, so not for every day. Other allocators than glibc's are left to their own ways.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and touches only memory that nobody has; glibc locks what it looks at.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;
    use crate::memory::line;

    #[cfg(target_env = "gnu")]
    #[test]
    fn what_another_thread_freed_is_the_kernel_s_again() {
        const BLOCK: usize = 1 << 16;
        let resident = || {
            let table = fs::read_to_string("/proc/self/status").expect("proc");
            line(&table, "VmRSS").expect("a line") >> 20
        };
        let before = resident();
        thread::spawn(move || {
            let blocks: Vec<Vec<u8>> = (0..1024).map(|_| vec![1; BLOCK]).collect();
            // What is in use above them keeps the allocator from giving them back by itself.
            let above = Box::leak(Box::new([1_u8; 100]));
            drop(blocks);
            assert!(resident() > before + 32 && above[0] == 1, "kept: the test tests nothing otherwise");
        })
        .join()
        .expect("no panic");
        give_back();
        assert!(resident() < before + 16, "{} MiB, and {before} before", resident());
    }
}
