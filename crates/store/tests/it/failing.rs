//! Transfers over a store that fails: never a wrong length, always an end, and no byte that the store did not send.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use store::failing::{Failing, Fault, When};
use store::{Clock, Error, Kind, Memory, Policy, Store, SystemClock, Transfer, VirtualClock};

const SIZE: u64 = 300_000;

fn object(salt: u32) -> Vec<u8> {
    (0..SIZE as u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(salt) >> 13) as u8).collect()
}

fn failing(seed: u64) -> Arc<Failing> {
    let memory = Memory::new();
    memory.put("a", &object(0)).expect("is written");
    Arc::new(Failing::new(Arc::new(memory), seed))
}

fn transfer(store: &Arc<Failing>) -> (Transfer, Arc<VirtualClock>) {
    let clock = Arc::new(VirtualClock::default());
    (Transfer::with(Arc::clone(store) as Arc<dyn Store>, Policy::default(), Arc::clone(&clock) as _), clock)
}

#[test]
fn what_shows_itself_is_survived_over_many_seeds() {
    let loud: Vec<Fault> = Fault::ALL.into_iter().filter(|fault| !fault.is_silent()).collect();
    let content = object(0);
    let mut injected = 0;
    for seed in 0..500 {
        let store = failing(seed);
        for fault in &loud {
            store.inject(*fault, When::Rate(0.05));
        }
        let policy = Policy { retries: 30, retries_wrong: 30, ..Policy::default() };
        let transfer = Transfer::with(Arc::clone(&store) as _, policy, Arc::new(VirtualClock::default()));
        for start in (0..SIZE).step_by(50_000) {
            let range = start..SIZE.min(start + 60_000);
            let bytes = transfer.get("a", range.clone()).expect("the budget is enough for this rate");
            assert!(bytes == content[range.start as usize..range.end as usize], "seed {seed}, {range:?}");
        }
        assert!(transfer.get_all("a", SIZE).expect("is there") == content, "seed {seed}");
        injected += store.injected_total();
    }
    assert!(injected > 1000, "only {injected} faults were injected");
}

#[test]
fn each_fault_is_injected_as_often_as_said_and_counted() {
    for fault in Fault::ALL {
        let store = failing(7);
        store.remember("a", object(1).into());
        store.inject(fault, When::First(2));
        let (transfer, _) = transfer(&store);
        let bytes = transfer.get("a", 1000..50_000).expect("two are survived");
        assert_eq!(bytes.len(), 49_000, "{fault:?}");
        if fault.is_silent() {
            assert!(bytes != object(0)[1000..50_000], "{fault:?} delivers what the object is not");
            let _ = transfer.get("a", 0..10).expect("the second one");
        } else {
            assert!(bytes == object(0)[1000..50_000], "{fault:?}");
        }
        assert_eq!((store.injected(fault), store.injected_total()), (2, 2), "{fault:?}");
        assert!(transfer.get("a", 1000..50_000).expect("healed") == object(0)[1000..50_000], "{fault:?} is over");
    }
}

#[test]
fn a_body_that_breaks_off_continues_where_it_stopped() {
    let store = failing(3);
    store.inject(Fault::Truncated, When::First(5));
    let (transfer, _) = transfer(&store);
    assert!(transfer.get("a", 0..SIZE).expect("is put together") == object(0));
    // Each byte once, not the beginning six times.
    assert_eq!(transfer.fetched(), SIZE);
}

#[test]
fn a_store_that_never_recovers_ends_in_bounded_time() {
    let kinds = [
        // Long enough that nine beginnings of it are not all of it.
        (Fault::Truncated, Kind::Exhausted),
        (Fault::Stall, Kind::Exhausted),
        (Fault::Reset, Kind::Exhausted),
        (Fault::ServerError, Kind::Exhausted),
        (Fault::SlowDown, Kind::Exhausted),
        (Fault::Longer, Kind::Wrong),
        (Fault::IgnoredRange, Kind::Wrong),
    ];
    for (fault, kind) in kinds {
        let clock = Arc::new(VirtualClock::default());
        let memory = Memory::new();
        memory.put("a", &object(0)).expect("is written");
        let store = Failing::new(Arc::new(memory), 1)
            .stalling(Arc::clone(&clock) as _, Duration::from_secs(20))
            .with(fault, When::Rate(1.0));
        let transfer = Transfer::with(Arc::new(store), Policy::default(), Arc::clone(&clock) as _);
        let error = transfer.get("a", 5..SIZE).expect_err("never works");
        assert_eq!(error.kind, kind, "{fault:?}: {error}");
        assert!(clock.now() < Duration::from_mins(5), "{fault:?} took {:?}", clock.now());
        let error = transfer.reader("a", 5..SIZE).read_to_end(&mut Vec::new()).expect_err("never works");
        let own = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).expect("a store's error");
        assert_eq!(own.kind, kind, "{fault:?}");
    }
}

#[test]
fn an_attempt_that_trickles_is_ended_and_continued() {
    /// Ten bytes a second.
    #[derive(Debug)]
    struct Trickle(Memory, Arc<VirtualClock>);
    struct Slow(Box<dyn Read + Send>, Arc<VirtualClock>);
    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.1.sleep(Duration::from_secs(1));
            let count = buffer.len().min(10);
            self.0.read(&mut buffer[..count])
        }
    }
    impl Store for Trickle {
        fn describe(&self) -> String {
            self.0.describe()
        }
        fn head(&self, key: &str) -> store::Result<store::Object> {
            self.0.head(key)
        }
        fn read(&self, key: &str, range: std::ops::Range<u64>) -> store::Result<Box<dyn Read + Send>> {
            Ok(Box::new(Slow(self.0.read(key, range)?, Arc::clone(&self.1))))
        }
        fn put(&self, key: &str, bytes: &[u8]) -> store::Result<()> {
            self.0.put(key, bytes)
        }
        fn upload(&self, key: &str, size: u64, body: &mut (dyn Read + Send), told: &dyn Fn(u64)) -> store::Result<()> {
            self.0.upload(key, size, body, told)
        }
        fn list(&self, prefix: &str) -> store::Result<Vec<store::Object>> {
            self.0.list(prefix)
        }
        fn delete(&self, key: &str) -> store::Result<()> {
            self.0.delete(key)
        }
    }
    let clock = Arc::new(VirtualClock::default());
    let store = Trickle(Memory::new(), Arc::clone(&clock));
    store.put("a", &object(0)).expect("is written");
    let transfer = Transfer::with(Arc::new(store), Policy::default(), Arc::clone(&clock) as _);
    // 600 bytes an attempt of a minute, nine attempts.
    assert!(transfer.get("a", 0..2000).expect("four attempts") == object(0)[..2000]);
    assert_eq!(transfer.fetched(), 2000);
    assert_eq!(transfer.get("a", 0..SIZE).expect_err("takes hours").kind, Kind::Exhausted);
}

#[test]
fn fewer_are_in_flight_when_the_store_asks_to_slow_down() {
    let store = failing(1);
    let (transfer, _) = transfer(&store);
    let before = transfer.in_flight(100);
    store.inject(Fault::SlowDown, When::First(1));
    transfer.get("a", 0..10).expect("works the second time");
    assert_eq!(transfer.in_flight(100), before / 2);
    assert_eq!(transfer.in_flight(1), 1);
    assert_eq!(transfer.in_flight(0), 1);
}

#[test]
fn writes_are_repeated_also_when_only_the_answer_was_lost() {
    for seed in 0..50 {
        let store = failing(seed);
        for fault in [Fault::Reset, Fault::Stall, Fault::ServerError, Fault::SlowDown] {
            store.inject(fault, When::Rate(0.15));
        }
        let (transfer, _) = transfer(&store);
        transfer.put("b", b"new").expect("is written");
        assert_eq!(transfer.head("b").expect("is there").size, 3);
        assert_eq!(transfer.list("b").expect("lists").len(), 1);
        transfer.delete("b").expect("is removed");
        assert_eq!(transfer.head("b").expect_err("is gone").kind, Kind::NotFound);
    }
}

#[test]
fn a_replayed_object_is_the_one_before() {
    let store = failing(1);
    store.put("b", b"old").expect("is written");
    store.put("b", b"newer").expect("is written");
    store.inject(Fault::Replay, When::First(2));
    let (transfer, _) = transfer(&store);
    assert_eq!(transfer.get_all("b", 100).expect("reads"), Bytes::from_static(b"old"));
    assert_eq!(transfer.get_all("b", 100).expect("reads"), Bytes::from_static(b"newer"));
}

#[test]
fn a_seed_finds_again_what_it_found() {
    let run = |seed| {
        let store = failing(seed);
        for fault in Fault::ALL {
            store.inject(fault, When::Rate(0.1));
        }
        let (transfer, _) = transfer(&store);
        let bytes: Vec<_> = (0..20).map(|i| transfer.get("a", i * 1000..SIZE).ok()).collect();
        (bytes, Fault::ALL.map(|fault| store.injected(fault)))
    };
    assert!(run(11) == run(11));
    assert!(run(11) != run(12));
}

#[test]
fn a_stall_can_take_real_time_too() {
    let memory = Memory::new();
    memory.put("a", b"abc").expect("is written");
    let clock = Arc::new(SystemClock::default());
    let store = Failing::new(Arc::new(memory), 1)
        .stalling(Arc::clone(&clock) as _, Duration::from_millis(20))
        .with(Fault::Stall, When::First(1));
    let policy = Policy { backoff_first: Duration::from_millis(1), ..Policy::default() };
    let began = clock.now();
    assert_eq!(Transfer::with(Arc::new(store), policy, Arc::clone(&clock) as _).get("a", 0..3).expect("reads"), "abc");
    assert!(clock.now() >= began + Duration::from_millis(20));
}
