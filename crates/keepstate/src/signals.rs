//! Signals, for a command that must not end before it has taken back what it did.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::thread;

use steps::Stop;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

/// From now on SIGHUP does nothing, for a session that is gone changes nothing of what is to be done; SIGINT and SIGTERM ask to
/// stop, and do not end the process.
pub(crate) fn catch(stop: Stop) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        // What was caught once stays caught, whether anybody listens or not.
        drop(signal(SignalKind::hangup())?);
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let listen = move || {
        let name = runtime.block_on(poll_fn(|context| {
            if interrupt.poll_recv(context).is_ready() {
                return Poll::Ready("SIGINT");
            }
            terminate.poll_recv(context).map(|_| "SIGTERM")
        }));
        stop.ask(format!("{name} came: the upgrade was ended, and is taken back"));
    };
    thread::Builder::new().name("signals".into()).spawn(listen).map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    /// A session that dropped ended the upgrade of a node without traffic.
    #[test]
    fn a_hangup_changes_nothing_and_who_wants_our_end_asks_us_to_stop() {
        let stop = Stop::default();
        catch(stop.clone()).expect("signals can be caught");
        kill_process(getpid(), Signal::HUP).expect("ourselves");
        thread::sleep(Duration::from_millis(100));
        assert_eq!(stop.asked(), None);
        let begin = Instant::now();
        kill_process(getpid(), Signal::TERM).expect("ourselves");
        while stop.asked().is_none() && begin.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(stop.asked().is_some_and(|why| why.starts_with("SIGTERM came")), "{:?}", stop.asked());
        // Nobody listens any more, and it is caught all the same: what is taken back is not cut off.
        kill_process(getpid(), Signal::INT).expect("ourselves");
        thread::sleep(Duration::from_millis(100));
    }
}
