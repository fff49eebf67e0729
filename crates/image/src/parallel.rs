//! Pieces of work in order: made on one thread, worked on by all cores, taken in order on the caller's. Memory is bounded
//! by the number of pieces in flight, however long the work is.

use std::collections::BTreeMap;
use std::thread::{self, ScopedJoinHandle};

use crossbeam_channel::bounded;

/// Runs `produce`, which hands on pieces until it is told (false) that nobody wants more; on every core a `worker`, made
/// once; and `consume`, which gets what came of each piece in the order in which they were made. The first failure in
/// that order ends it all.
pub(crate) fn ordered<A, B, E, W>(
    produce: impl FnOnce(&mut dyn FnMut(A) -> bool) -> Result<(), E> + Send,
    worker: impl Fn() -> Result<W, E> + Sync,
    mut consume: impl FnMut(B) -> Result<(), E>,
) -> Result<(), E>
where
    A: Send,
    B: Send,
    E: Send,
    W: FnMut(A) -> Result<B, E>,
{
    let threads = thread::available_parallelism().map_or(1, usize::from);
    // Two for each worker, so that none waits while its last is taken, and one each in making and in taking.
    let in_flight = 2 * threads + 2;
    let (begin, end) = bounded::<()>(in_flight);
    let (to_work, work) = bounded::<(u64, A)>(in_flight);
    let (to_take, take) = bounded::<(u64, Result<B, E>)>(in_flight);
    thread::scope(|scope| {
        for _ in 0..threads {
            let (work, to_take, worker) = (work.clone(), to_take.clone(), &worker);
            scope.spawn(move || {
                // Without a worker, the thread's first piece says why, and nothing is taken behind it.
                let mut worker = worker().map_err(Some);
                for (number, piece) in work {
                    let done = match &mut worker {
                        Ok(worker) => worker(piece),
                        Err(error) => match error.take() {
                            Some(error) => Err(error),
                            None => return,
                        },
                    };
                    if to_take.send((number, done)).is_err() {
                        return;
                    }
                }
            });
        }
        drop((work, to_take));
        let producer = scope.spawn(move || {
            let mut number = 0;
            produce(&mut |piece| {
                number += 1;
                // A closed channel: taking has failed, and says below why.
                begin.send(()).is_ok() && to_work.send((number - 1, piece)).is_ok()
            })
        });
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        let mut taken = Ok(());
        'taking: for (number, done) in &take {
            waiting.insert(number, done);
            while let Some(done) = waiting.remove(&next) {
                taken = done.and_then(&mut consume);
                if taken.is_err() {
                    break 'taking;
                }
                next += 1;
                let _ = end.recv();
            }
        }
        drop((take, end));
        taken.and(join(producer))
    })
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "a worker's maker may fail")]
    fn double() -> Result<impl FnMut(u64) -> Result<u64, String>, String> {
        Ok(|piece: u64| {
            // Uneven work, so that pieces are done out of order.
            thread::sleep(Duration::from_micros(piece * 7 % 400));
            Ok(piece * 2)
        })
    }

    fn numbers(count: u64) -> impl FnOnce(&mut dyn FnMut(u64) -> bool) -> Result<(), String> {
        move |emit| {
            let _ = (0..count).all(emit);
            Ok(())
        }
    }

    #[test]
    fn pieces_come_in_order() {
        let mut taken = Vec::new();
        let result = ordered(numbers(500), double, |piece| {
            taken.push(piece);
            Ok(())
        });
        assert_eq!(result, Ok(()));
        assert_eq!(taken, (0..500).map(|piece| piece * 2).collect::<Vec<_>>());
    }

    #[test]
    fn few_pieces_are_in_flight_even_when_one_takes_long() {
        let (made, taken) = (AtomicU64::new(0), AtomicU64::new(0));
        let most = AtomicU64::new(0);
        let result: Result<(), String> = ordered(
            |emit| {
                for piece in 0..200_u64 {
                    let in_flight = made.fetch_add(1, Ordering::SeqCst) + 1 - taken.load(Ordering::SeqCst);
                    most.fetch_max(in_flight, Ordering::SeqCst);
                    emit(piece);
                }
                Ok(())
            },
            || {
                Ok(|piece: u64| {
                    thread::sleep(Duration::from_millis(if piece == 3 { 100 } else { 0 }));
                    Ok(piece)
                })
            },
            |_| {
                taken.fetch_add(1, Ordering::SeqCst);
                Ok(())
            },
        );
        assert_eq!(result, Ok(()));
        let threads = thread::available_parallelism().unwrap().get() as u64;
        assert!(most.load(Ordering::SeqCst) <= 2 * threads + 4, "{most:?}");
    }

    #[test]
    fn the_first_failure_in_order_ends_it() {
        let fails_at =
            |at: u64| move || Ok(move |piece| if piece >= at { Err(format!("work {piece}")) } else { Ok(piece) });
        assert_eq!(ordered(numbers(500), fails_at(7), |_| Ok(())), Err("work 7".to_owned()));
        let consume = |piece| if piece == 20 { Err("taking".to_owned()) } else { Ok(()) };
        assert_eq!(ordered(numbers(100_000), double, consume), Err("taking".to_owned()));
        let produce = |emit: &mut dyn FnMut(u64) -> bool| {
            emit(1);
            Err("making".to_owned())
        };
        assert_eq!(ordered(produce, double, |_| Ok(())), Err("making".to_owned()));
        let no_worker = || Err::<fn(u64) -> Result<u64, String>, _>("no worker".to_owned());
        assert_eq!(ordered(numbers(500), no_worker, |_| Ok(())), Err("no worker".to_owned()));
        assert_eq!(ordered(numbers(0), double, |_| Ok(())), Ok(()));
    }
}
