//! Keys and signatures, ours and those of the real minisign.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::*;

fn no_password() -> io::Result<Option<String>> {
    panic!("an unencrypted key needs no password")
}

#[test]
fn a_new_key_signs_what_its_public_half_accepts() {
    let dir = tempfile::tempdir().unwrap();
    let (id, secret, public) = new_key(&dir.path().join("ci"), None).unwrap();
    assert_eq!((secret.clone(), public.clone()), (dir.path().join("ci.key"), dir.path().join("ci.pub")));
    assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    let key = SecretKey::read(&secret, no_password).unwrap();
    let trusted = PublicKey::read_all(&public).unwrap();
    assert_eq!((key.id(), trusted.len(), trusted[0].id()), (id, 1, id));

    let signature = key.sign(b"a manifest", "comment").unwrap();
    assert!(key.has_signed(b"a manifest", &signature));
    assert!(!key.has_signed(b"another manifest", &signature));
    let (signed_by, signature) = parse_signature(&signature).unwrap();
    assert_eq!(signed_by, id);
    assert!(trusted[0].has_signed(b"a manifest", &signature));
    assert!(!trusted[0].has_signed(b"a manifest\0", &signature));
}

#[test]
fn a_key_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let (_, secret, public) = new_key(&dir.path().join("ci"), None).unwrap();
    let before = fs::read(&secret).unwrap();
    assert!(matches!(new_key(&dir.path().join("ci"), None), Err(Error::Exists(_))));
    fs::remove_file(&secret).unwrap();
    assert!(matches!(new_key(&dir.path().join("ci"), None), Err(Error::Exists(path)) if path == public));
    assert!(!secret.exists());
    assert!(!before.is_empty());
}

#[test]
fn what_is_no_key_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    for text in ["", "\n", "untrusted comment: x\n", "untrusted comment: x\nnonsense\n", "RWQ\nRWQ\n"] {
        fs::write(&path, text).unwrap();
        assert!(matches!(SecretKey::read(&path, no_password), Err(Error::Malformed { .. })), "{text:?}");
        assert!(matches!(PublicKey::read_all(&path), Err(Error::Malformed { .. })), "{text:?}");
    }
    assert!(matches!(SecretKey::read(&dir.path().join("missing"), no_password), Err(Error::Io { .. })));
}

/// One flipped bit in the key's public half: what it signs, nobody could check.
#[test]
fn a_damaged_secret_key_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (_, secret, _) = new_key(&dir.path().join("ci"), None).unwrap();
    let text = fs::read_to_string(&secret).unwrap();
    let (comment, key) = text.split_once('\n').unwrap();
    let mut bytes = Base64::decode_to_vec(key.trim(), None).unwrap();
    bytes[54 + 8 + 40] ^= 1;
    let key = <Base64 as ct_codecs::Encoder>::encode_to_string(bytes).unwrap();
    fs::write(&secret, format!("{comment}\n{key}\n")).unwrap();
    assert!(matches!(SecretKey::read(&secret, no_password), Err(Error::Malformed { .. })));
}

#[test]
fn a_file_may_hold_several_public_keys() {
    let dir = tempfile::tempdir().unwrap();
    let (old, _, old_path) = new_key(&dir.path().join("old"), None).unwrap();
    let (new, _, new_path) = new_key(&dir.path().join("new"), None).unwrap();
    let both = fs::read_to_string(old_path).unwrap() + &fs::read_to_string(new_path).unwrap();
    let keys = PublicKey::from_text("both", &both).unwrap();
    assert_eq!(keys.iter().map(PublicKey::id).collect::<Vec<_>>(), [old, new]);
}

/// Two relatives had CVEs for what stood behind a signed part.
#[test]
fn trailing_bytes_behind_a_signature_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_, secret, _) = new_key(&dir.path().join("ci"), None).unwrap();
    let signature = SecretKey::read(&secret, no_password).unwrap().sign(b"x", "comment").unwrap();
    assert!(parse_signature(&signature).is_ok());
    assert!(parse_signature(&format!("{signature}more\n")).is_err());
    assert!(parse_signature(&format!("{signature}\0")).is_err());
    assert!(parse_signature(&signature[..signature.len() / 2]).is_err());
}

proptest::proptest! {
    #[test]
    fn malformed_signatures_and_keys_get_an_error_never_a_panic(text in "(untrusted comment: )?[ -~\n]{0,120}") {
        let _ = parse_signature(&text);
        let _ = PublicKey::from_text("x", &text);
    }
}

fn minisign(dir: &Path, args: &[&str]) -> (bool, String) {
    let done = Command::new("minisign").current_dir(dir).args(args).output().unwrap();
    (done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr))
}

#[test]
#[ignore = "needs minisign: run by ./test"]
fn the_real_minisign_accepts_our_signature() {
    let dir = tempfile::tempdir().unwrap();
    let (id, secret, _) = new_key(&dir.path().join("ci"), None).unwrap();
    let key = SecretKey::read(&secret, no_password).unwrap();
    fs::write(dir.path().join("manifest.json"), b"a manifest\n").unwrap();
    let signature = key.sign(b"a manifest\n", "keepstate image debian@1 serial 1").unwrap();
    fs::write(dir.path().join("manifest.json.minisig"), signature).unwrap();
    let (good, text) = minisign(dir.path(), &["-V", "-p", "ci.pub", "-m", "manifest.json"]);
    assert!(good && text.contains("keepstate image debian@1 serial 1"), "{text}");
    fs::write(dir.path().join("manifest.json"), b"a manifest!\n").unwrap();
    assert!(!minisign(dir.path(), &["-V", "-p", "ci.pub", "-m", "manifest.json"]).0);
    // The real tool signs with our key, too, and shows its id as we do.
    let (good, text) = minisign(dir.path(), &["-S", "-W", "-s", "ci.key", "-m", "manifest.json"]);
    assert!(good, "{text}");
    let signature = fs::read_to_string(dir.path().join("manifest.json.minisig")).unwrap();
    assert!(key.has_signed(b"a manifest!\n", &signature));
    let (_, text) = minisign(dir.path(), &["-R", "-W", "-s", "ci.key", "-p", "again.pub"]);
    let again = fs::read_to_string(dir.path().join("again.pub")).unwrap();
    assert!(again.contains(&id.to_string()), "{text} {again}");
}

#[test]
#[ignore = "needs minisign: run by ./test"]
fn we_accept_the_real_minisigns_keys_and_signatures() {
    let dir = tempfile::tempdir().unwrap();
    let (good, text) = minisign(dir.path(), &["-G", "-W", "-p", "real.pub", "-s", "real.key"]);
    assert!(good, "{text}");
    fs::write(dir.path().join("m"), b"content").unwrap();
    let trusted = PublicKey::read_all(&dir.path().join("real.pub")).unwrap();
    let key = SecretKey::read(&dir.path().join("real.key"), no_password).unwrap();
    assert_eq!(key.id(), trusted[0].id());
    // The legacy kind is accepted, as the real tool accepts it.
    for kind in [&[][..], &["-l"]] {
        let (good, text) = minisign(dir.path(), &[&["-S", "-W", "-s", "real.key", "-m", "m"], kind].concat());
        assert!(good, "{text}");
        let signature = fs::read_to_string(dir.path().join("m.minisig")).unwrap();
        let (id, signature) = parse_signature(&signature).unwrap();
        assert_eq!(id, trusted[0].id());
        assert!(trusted[0].has_signed(b"content", &signature), "{kind:?}");
        assert!(!trusted[0].has_signed(b"Content", &signature), "{kind:?}");
    }
}

/// Deriving the key takes a second and a gigabyte, by minisign's design.
#[test]
#[ignore = "slow: run by ./test"]
fn an_encrypted_key_needs_its_password() {
    let dir = tempfile::tempdir().unwrap();
    let (id, secret, _) = new_key(&dir.path().join("ci"), Some("geheim".into())).unwrap();
    assert_eq!(SecretKey::read(&secret, || Ok(Some("geheim".into()))).unwrap().id(), id);
    assert!(matches!(SecretKey::read(&secret, || Ok(Some("falsch".into()))), Err(Error::Password { .. })));
    assert!(matches!(SecretKey::read(&secret, || Ok(None)), Err(Error::Password { .. })));
}
