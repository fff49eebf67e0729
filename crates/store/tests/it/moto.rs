//! Against moto's S3 and instance metadata, which nobody here wrote.
//!
//! They need a Python with `moto[server]`: `./test` installs one (`scripts/python-tools`), names it in
//! `KEEPSTATE_TEST_MOTO`, and runs ignored tests too. Without it they are ignored, not passed.

use std::io::{BufRead, BufReader, Cursor, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use store::{Environment, Kind, Options, Store, Transfer, open_with};

use crate::contract::keeps_the_contract;
use crate::raw::content;

/// moto's server with a bucket, until it is dropped.
struct Moto {
    process: Child,
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Moto {
    fn start() -> Self {
        let python = std::env::var("KEEPSTATE_TEST_MOTO");
        let python = python.expect("KEEPSTATE_TEST_MOTO names a Python that has moto[server]; ./test makes one");
        let mut process = Command::new(python)
            .args(["-m", "moto.server", "--host", "127.0.0.1", "--port", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("moto starts");
        let (log, stderr) = (Arc::new(Mutex::new(Vec::new())), process.stderr.take().expect("is piped"));
        let (tell, told) = mpsc::channel();
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("Running on http://") {
                    // Nobody waits for a second address.
                    let _ = tell.send(address.trim().parse());
                }
                lines.lock().expect("no test panics with it").push(line);
            }
        });
        let address = told.recv_timeout(Duration::from_mins(1)).expect("moto says where it listens");
        let moto = Self { process, address: address.expect("an address"), log };
        // We cannot make buckets, so it is asked for by hand; moto looks at the service only.
        let mut stream = TcpStream::connect(moto.address).expect("moto listens");
        let request = "PUT /images HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nAuthorization: AWS4-HMAC-SHA256 \
                       Credential=a/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=a\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("is sent");
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("is answered");
        assert!(said.contains(" 200 "), "{said}");
        moto
    }

    fn open(&self, environment: &[(&str, &str)]) -> Arc<dyn Store> {
        let endpoint = format!("http://{}", self.address);
        let named = [("AWS_ENDPOINT_URL", endpoint.as_str())];
        let environment: Environment = environment.iter().copied().chain(named).collect();
        open_with("s3://images/os", &Options { environment, ..Options::default() }).expect("opens")
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];

#[test]
#[ignore = "needs moto: run by ./test"]
fn a_bucket_of_moto_keeps_the_contract() {
    let moto = Moto::start();
    keeps_the_contract(&*moto.open(&KEYS));
    let nowhere = format!("http://{}", moto.address);
    let environment = KEYS.into_iter().chain([("AWS_ENDPOINT_URL", nowhere.as_str())]).collect();
    let store = open_with("s3://nowhere", &Options { environment, ..Options::default() }).expect("opens");
    assert_eq!(store.list("").expect_err("no such bucket").kind, Kind::NotFound);
}

#[test]
#[ignore = "needs moto: run by ./test"]
fn a_large_object_goes_to_moto_and_back() {
    let moto = Moto::start();
    let store = moto.open(&KEYS);
    let object = content(20_000_000);
    store.upload("disk", 20_000_000, &mut Cursor::new(&object), &|_| ()).expect("is written");
    let mut streamed = Vec::new();
    Transfer::new(store).reader("disk", 0..20_000_000).read_to_end(&mut streamed).expect("streams");
    assert!(streamed == object);
}

#[test]
#[ignore = "needs moto: run by ./test"]
fn credentials_come_from_motos_metadata_service() {
    let moto = Moto::start();
    let metadata = format!("http://{}", moto.address);
    let store = moto.open(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata)]);
    store.put("a", b"x").expect("is written");
    assert_eq!(store.head("a").expect("is there").size, 1);
    let log = moto.log.lock().expect("no test panics with it").join("\n");
    assert!(log.contains("PUT /latest/api/token"), "{log}");
    assert!(log.contains("GET /latest/meta-data/iam/security-credentials/default-role"), "{log}");
}
