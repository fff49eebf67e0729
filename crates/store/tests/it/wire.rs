//! What servers do to bodies and answers, over real sockets.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use store::{Environment, Kind, Policy, SystemClock, Transfer, open_with};

use crate::raw::{Say, Server, answer, content, options, part, policy, transfer};

const SIZE: usize = 200_000;

#[test]
fn a_body_that_breaks_off_continues_where_it_stopped() {
    let object = content(SIZE);
    let copy = object.clone();
    // Every answer but the last ends in the middle.
    let server = Server::start(move |number, asked| {
        let mut whole = part(&copy, asked);
        if number < 3 {
            whole.truncate(whole.len() / 2);
        }
        Say::Bytes(whole)
    });
    let transfer = transfer(server.address);
    assert!(transfer.get("disk", 100..SIZE as u64).expect("is put together") == object[100..]);
    assert_eq!(transfer.fetched(), (SIZE - 100) as u64, "no byte twice");
    let starts: Vec<_> = server.asked().iter().map(|asked| asked.range().expect("a range").0).collect();
    assert_eq!(starts.len(), 4);
    assert!(starts.is_sorted_by(|a, b| a < b), "each from where the one before stopped: {starts:?}");
    assert_eq!(server.asked()[0].path, "/images/disk");
}

#[test]
fn a_body_that_stalls_is_left_and_continued() {
    let object = content(SIZE);
    let copy = object.clone();
    let server = Server::start(move |number, asked| {
        let mut whole = part(&copy, asked);
        if number > 0 {
            return Say::Bytes(whole);
        }
        whole.truncate(whole.len() / 2);
        Say::Hang(whole)
    });
    let began = Instant::now();
    assert!(transfer(server.address).get("disk", 0..SIZE as u64).expect("is put together") == object);
    assert_eq!(server.asked().len(), 2);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let server = Server::start(|_, _| Say::Hang(Vec::new()));
    let began = Instant::now();
    let error = transfer(server.address).get("disk", 0..10).expect_err("never answers");
    assert_eq!(error.kind, Kind::Exhausted);
    assert!(format!("{:?}", error.source).contains("no answer within 150ms"), "{error:?}");
    assert_eq!(server.asked().len(), 5, "one attempt and four retries");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn a_server_that_is_not_there_is_given_up() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let error = transfer(nobody).get("disk", 0..10).expect_err("nobody listens");
    assert_eq!(error.kind, Kind::Exhausted);
    assert!(format!("{:?}", error.source).contains("Connection refused"), "{error:?}");
    let error = transfer(nobody).head("disk").expect_err("nobody listens");
    assert_eq!(error.kind, Kind::Exhausted);
}

#[test]
fn a_name_that_does_not_exist_is_given_up() {
    // RFC 6761: no server knows it. Where there is no server to ask, that is the same to us.
    let store = open_with("http://images.invalid/", &options([("KEEPSTATE_ALLOW_HTTP", "1")].into_iter().collect()));
    let transfer = Transfer::with(store.expect("opens"), policy(), Arc::new(SystemClock::default()));
    assert_eq!(transfer.head("disk").expect_err("no such host").kind, Kind::Exhausted);
}

/// What one get of 10..20 of a hundred bytes ends with, when the server always says `said`.
fn ends_with(said: Vec<u8>) -> (Kind, String, usize) {
    let server = Server::start(move |_, _| Say::Bytes(said.clone()));
    let policy = Policy { retries_wrong: 2, ..policy() };
    let store = open_with(&format!("http://{}", server.address), &options(Environment::default())).expect("opens");
    let transfer = Transfer::with(store, policy, Arc::new(SystemClock::default()));
    let error = transfer.get("disk", 10..20).expect_err("is never right");
    (error.kind, format!("{:?}", error.source), server.asked().len())
}

#[test]
fn a_body_of_the_wrong_length_or_place_is_never_accepted() {
    let object = content(100);
    let whole = ends_with(answer("200 OK", &[], &object));
    assert_eq!((whole.0, whole.2), (Kind::Wrong, 3), "the range was ignored: {}", whole.1);
    let elsewhere = answer("206 Partial Content", &["Content-Range: bytes 0-9/100"], &object[0..10]);
    assert_eq!(ends_with(elsewhere).0, Kind::Wrong);
    let shorter = answer("206 Partial Content", &["Content-Range: bytes 10-18/100"], &object[10..19]);
    assert_eq!(ends_with(shorter).0, Kind::Wrong);
    let says_one_sends_other = answer("206 Partial Content", &["Content-Range: bytes 10-19/100"], &object[10..19]);
    assert_eq!(ends_with(says_one_sends_other).0, Kind::Wrong);
    let no_range = answer("206 Partial Content", &[], &object[10..20]);
    assert_eq!(ends_with(no_range).0, Kind::Wrong);

    // Chunked: nobody says beforehand how long it is.
    let head = "HTTP/1.1 206 Partial Content\r\nConnection: close\r\nContent-Range: bytes 10-19/100\r\n\
                Transfer-Encoding: chunked\r\n\r\nf\r\n";
    let chunked = ends_with([head.as_bytes(), &object[10..25], b"\r\n0\r\n\r\n"].concat());
    assert_eq!(chunked.0, Kind::Wrong);
    assert!(chunked.1.contains("does not say its length"), "{}", chunked.1);
}

#[test]
fn each_refusal_is_taken_for_what_it_is() {
    for (status, body, kind, attempts) in [
        ("404 Not Found", "", Kind::NotFound, 1),
        ("403 Forbidden", "<Error><Code>AccessDenied</Code></Error>", Kind::Denied, 1),
        ("401 Unauthorized", "", Kind::Denied, 1),
        ("400 Bad Request", "", Kind::Invalid, 1),
        ("416 Range Not Satisfiable", "", Kind::Wrong, 3),
        ("500 Internal Server Error", "", Kind::Exhausted, 5),
        ("503 Service Unavailable", "<Error><Code>SlowDown</Code></Error>", Kind::Exhausted, 5),
    ] {
        let (found, why, asked) = ends_with(answer(status, &[], body.as_bytes()));
        assert_eq!((found, asked), (kind, attempts), "{status}: {why}");
        assert!(why.contains(&status[..3]), "{status}: {why}");
    }
}

#[test]
fn a_store_that_asks_to_slow_down_gets_fewer_at_once() {
    let object = content(100);
    let server = Server::start(move |number, asked| {
        Say::Bytes(if number == 0 { answer("503 Slow Down", &[], b"") } else { part(&object, asked) })
    });
    let transfer = transfer(server.address);
    let before = transfer.in_flight(100);
    transfer.get("disk", 0..10).expect("the second time");
    assert_eq!(transfer.in_flight(100), before / 2);
}

#[test]
fn a_redirect_is_followed_but_not_away_from_https() {
    let object = content(100);
    let there = Server::start(move |_, asked| Say::Bytes(part(&object, asked)));
    let to = format!("Location: http://{}/other", there.address);
    let here = Server::start(move |_, _| Say::Bytes(answer("302 Found", &[&to], b"")));
    assert_eq!(transfer(here.address).get("disk", 5..9).expect("is found"), content(100)[5..9]);
    assert_eq!(there.asked()[0].path, "/other");
    let in_a_circle = Server::start(|_, _| Say::Bytes(answer("302 Found", &["Location: /again"], b"")));
    let error = transfer(in_a_circle.address).get("disk", 0..9).expect_err("never arrives");
    assert_eq!(error.kind, Kind::Invalid);
    assert!(format!("{:?}", error.source).contains("302"), "{error:?}");
    assert_eq!(in_a_circle.asked().len(), 6);
}

#[test]
fn a_web_server_is_read_and_nothing_else() {
    let object = content(1000);
    let server = Server::start(move |_, asked| {
        Say::Bytes(if asked.path.ends_with("/none") { answer("404 Not Found", &[], b"") } else { part(&object, asked) })
    });
    let transfer = transfer(server.address);
    assert_eq!(transfer.head("a b/ü").expect("is there").size, 1000);
    assert_eq!(server.asked()[0].path, "/images/a%20b/%C3%BC");
    assert_eq!(transfer.get_all("disk", 1000).expect("reads"), content(1000));
    assert_eq!(transfer.head("none").expect_err("is not").kind, Kind::NotFound);
    assert_eq!(transfer.list("").expect_err("cannot").kind, Kind::Invalid);
    assert_eq!(transfer.put("a", b"").expect_err("cannot").kind, Kind::Invalid);
    assert_eq!(transfer.delete("a").expect_err("cannot").kind, Kind::Invalid);
    let error = transfer.upload("a", 1, &mut &b"x"[..], &|_| ()).expect_err("cannot");
    assert_eq!((error.kind, error.source.to_string().as_str()), (Kind::Invalid, "a store behind http is read-only"));
}

#[test]
fn a_url_that_is_signed_for_get_only_is_enough() {
    let server = Server::start(|_, asked| {
        Say::Bytes(if asked.method == "GET" { part(&content(1000), asked) } else { answer("403 Forbidden", &[], b"") })
    });
    let transfer = transfer(server.address);
    assert_eq!(transfer.head("disk").expect("is there").size, 1000);
    assert_eq!(transfer.get_all("disk", 1000).expect("reads"), content(1000));
    let denies = Server::start(|_, _| Say::Bytes(answer("403 Forbidden", &[], b"")));
    assert_eq!(crate::raw::transfer(denies.address).head("disk").expect_err("is denied").kind, Kind::Denied);
}

#[test]
fn a_token_in_the_url_is_sent_and_not_shown() {
    let server = Server::start(|_, asked| Say::Bytes(part(&content(10), asked)));
    let url = format!("http://{}/d/disk.lz4?token=secret", server.address);
    let (store, key) = store::open_object_with(&url, &options(Environment::default())).expect("opens");
    assert_eq!(store.head(&key).expect("is there").size, 10);
    assert_eq!(server.asked()[0].path, "/d/disk.lz4?token=secret");
    assert_eq!(store.describe(), format!("http://{}/d", server.address));
    let error = store.read(&key, 20..30).err().expect("is beyond");
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
}
