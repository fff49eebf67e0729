//! Refusals for who gets in and who goes on: people, the agent, its hooks and its configuration.

use super::*;

/// Any agent of any cloud counted as a way in.
#[test]
fn a_cloud_s_agent_lets_somebody_in_only_where_its_cloud_names_somebody_anew() {
    let login = |agent: &'static str, service: Option<&str>, change: fn(&mut Facts<'_>)| {
        let image = |image: &mut Manifest| {
            setup(image).passwords.clear();
            setup(image).cloud_agents.push(agent.into());
        };
        let node = |facts: &mut Facts<'_>| {
            facts.metadata_service = Ok(service.map(String::from));
            change(facts);
        };
        verdict("login", image, node)
    };
    for (agent, cloud) in [
        ("cloud-init", "hetzner"),
        ("google-guest-agent", "gce"),
        ("waagent", "azure"),
        ("amazon-ssm-agent", "aws"),
        ("ec2-instance-connect", "aws"),
        ("afterburn", "openstack"),
    ] {
        is_not_refused(&login(agent, Some(cloud), |_| ()), &["ok", agent]);
        is_refused(&login(agent, None, |_| ()), &["no agent that would bring any here"]);
    }
    is_refused(&login("waagent", Some("aws"), |_| ()), &[]);
    is_not_refused(&login("sssd", None, |_| ()), &["ok", "sssd"]);
    let kept = |facts: &mut Facts<'_>| facts.carried = vec!["/var/lib/cloud/instances/i-7/sem/config_ssh".into()];
    is_refused(&login("cloud-init", Some("aws"), kept), &["its state is kept"]);
    is_refused(&login("cloud-init", Some("aws"), |facts| facts.cloud_init_is_off = true), &[]);
}

#[test]
fn an_image_that_lets_nobody_in_is_refused() {
    let closed = |image: &mut Manifest| setup(image).passwords.clear();
    is_refused(&verdict("login", closed, |_| {}), &["nobody could log in", "put a key"]);
    let keys_only = |image: &mut Manifest| {
        closed(image);
        setup(image).authorized_keys.push("/root/.ssh/authorized_keys".into());
    };
    is_refused(&verdict("login", keys_only, |_| {}), &["no SSH server"]);
    is_refused(&verdict("login", closed, |facts| facts.keeps_authorized_keys = true), &["no SSH server"]);
    is_refused(&verdict("login", |image| image.facts = None, |_| {}), &["not known"]);
}

#[test]
fn whether_an_operator_will_get_into_the_imager_is_said_and_never_refused() {
    let said = |access: (u16, u16), keys: usize, left_out: usize| {
        let access = imager::access::Access { ssh_port: access.0, http_port: access.1 };
        let left_out = vec!["the authorized key in line 3 is left out: x".to_owned(); left_out];
        let finding = verdict(
            "operators",
            |_| {},
            |facts| {
                (facts.operators.access, facts.operators.keys, facts.operators.left_out) = (access, keys, left_out);
            },
        );
        assert!(!finding.is_refusal());
        finding.to_string()
    };
    assert!(said((22, 0), 2, 0).contains("SSH on port 22 for 2 authorized keys"));
    assert!(said((22, 80), 1, 1).contains("HTTP on port 80 for whoever can reach it"));
    assert!(said((22, 80), 1, 1).contains("line 3"));
    assert!(said((0, 0), 0, 0).contains("only on the console"));
    let lacks = verdict("operators", |_| {}, |facts| facts.operators.lacks_keys = true).to_string();
    assert!(lacks.contains("no file of `authorized-keys`"), "{lacks}");
    assert!(said((0, 0), 0, 1).contains("line 3"));
}

#[test]
fn any_one_way_in_for_a_person_is_enough() {
    type Change = fn(&mut Setup);
    let ways: [(Change, &str); 3] = [
        (
            |setup| (setup.has_ssh_server, setup.authorized_keys) = (true, vec!["/root/.ssh/authorized_keys".into()]),
            "/root",
        ),
        (|setup| setup.open_consoles.push("/etc/systemd/x.conf".into()), "x.conf"),
        (|setup| setup.passwords.push("me".into()), "me's password"),
    ];
    for (way, word) in ways {
        let image = |image: &mut Manifest| {
            setup(image).passwords.clear();
            way(setup(image));
        };
        is_not_refused(&verdict("login", image, |_| {}), &["ok", word]);
    }
    let server = |image: &mut Manifest| {
        setup(image).passwords.clear();
        setup(image).has_ssh_server = true;
    };
    is_not_refused(&verdict("login", server, |facts| facts.keeps_authorized_keys = true), &["which are kept"]);
}

#[test]
fn an_image_without_the_agent_is_taken_with_a_warning_of_what_it_cannot_have() {
    let found = verdict("agent", |image| setup(image).has_agent = false, |_| {});
    is_not_refused(&found, &["warning", "no trial", "nothing judges"]);
}

#[test]
fn a_hook_that_says_no_is_heard_and_those_that_say_yes_are_quoted() {
    let hooks = |said: Result<&str, &str>| {
        let said = said.map(String::from).map_err(String::from);
        verdict("hooks", |_| {}, |facts| facts.hooks = said)
    };
    is_not_refused(&hooks(Ok("")), &["ok", "there are none"]);
    let two = hooks(Ok("10-lag: no lag\n20-backup: of today"));
    is_not_refused(&two, &["ok", "no lag", "\n           20-backup: of today"]);
    let no = hooks(Err("the hook 10-lag ended with code 3: replica 2 is behind"));
    is_refused(&no, &["replica 2 is behind", "preflight.d"]);
    assert!(!no.to_string().contains("accept ="), "{no}");
}

fn own(has_our_place: bool, units: &[&str]) -> Configuration {
    Configuration::InImage(Own { has_our_place, units: units.iter().map(ToString::to_string).collect() })
}

/// Any byte at its path was taken for a configuration: with a mistake in it there was no hold, no trial and no way back.
#[test]
fn an_image_s_own_configuration_that_the_agent_could_not_use_is_refused() {
    let ours = ["etcd.service".to_owned()];
    let agent = |own: Configuration| {
        let manifest = manifest();
        let facts = Facts { configuration: Ok(own), units: &ours, ..facts(&manifest) };
        check(&facts).into_iter().find(|finding| finding.what == "agent").unwrap()
    };
    let broken = Configuration::Broken("unknown field `plcae`".into());
    is_refused(&agent(broken), &["plcae", "nothing would judge", "agent = \"keep\"", "accept = [\"agent\"]"]);
    is_refused(&agent(own(false, &["etcd.service"])), &["another `place`", "would not find what was done"]);
    is_refused(&agent(own(true, &[])), &["no `units`", "nothing would hold", "etcd.service"]);
    is_not_refused(&agent(own(true, &["etcd3.service"])), &["warning", "etcd3.service instead of etcd.service"]);
    is_not_refused(&agent(own(true, &["etcd.service"])), &["ok", "of its own"]);
}

/// A node that is fresh after each upgrade got an image whose agent, without a configuration, judged nothing and undid nothing.
#[test]
fn an_agent_that_would_find_no_configuration_is_refused() {
    let agent = |configuration: Result<Configuration, String>| {
        verdict("agent", |_| {}, |facts| facts.configuration = configuration)
    };
    is_not_refused(&agent(Ok(Configuration::Carried)), &["ok", "as it is here"]);
    is_not_refused(&agent(Ok(own(true, &[]))), &["ok", "/etc/keepstate/node.toml of its own"]);
    is_refused(&agent(Ok(Configuration::Nowhere)), &["no trial", "call the old one back", "accept = [\"agent\"]"]);
    is_refused(&agent(Err("no such store".into())), &["not known: no such store"]);
    let accepted = ["agent".to_owned()];
    let manifest = manifest();
    let facts = Facts { configuration: Ok(Configuration::Nowhere), accepted: &accepted, ..facts(&manifest) };
    let found = check(&facts).into_iter().find(|finding| finding.what == "agent").unwrap();
    is_not_refused(&found, &["warning", "no trial", "is accepted"]);
    let none = |facts: &mut Facts<'_>| facts.configuration = Ok(Configuration::Nowhere);
    is_not_refused(
        &verdict("agent", |image| setup(image).has_agent = false, none),
        &["warning", "nothing in the image starts the agent"],
    );
}

/// A node that is fresh after each upgrade left its probe behind, and its way back into traffic.
#[test]
fn hooks_that_the_new_os_will_not_have_are_refused() {
    let afterwards = |left: Result<&[&str], &str>| {
        let left = left.map(|left| left.iter().map(ToString::to_string).collect()).map_err(String::from);
        verdict("hooks afterwards", |_| {}, |facts| facts.hooks_left_behind = left)
    };
    is_not_refused(&afterwards(Ok(&[])), &["ok"]);
    let undrain = "/etc/keepstate/hooks/undrain.d/10-balancer";
    is_refused(&afterwards(Ok(&[undrain])), &[undrain, "agent = \"keep\"", "accept = [\"hooks afterwards\"]"]);
    is_refused(&afterwards(Err("no such store")), &["not known: no such store"]);
    let without_agent = |image: &mut Manifest| setup(image).has_agent = false;
    let left = |facts: &mut Facts<'_>| facts.hooks_left_behind = Ok(vec![undrain.into()]);
    is_not_refused(&verdict("hooks afterwards", without_agent, left), &["nothing in the image starts the agent"]);
}

/// Without systemd a datastore is held by its init script, and the gate knows that by its unit's name.
#[test]
fn a_datastore_that_could_not_be_held_in_the_new_os_is_refused() {
    let agent = |not_held: Result<Vec<String>, String>| verdict("agent", |_| {}, |facts| facts.not_held = not_held);
    let unknown = Ok(vec!["postgresql@15-main.service".to_owned()]);
    is_refused(&agent(unknown), &["postgresql@15-main.service", "no systemd", "/etc/init.d", "`units`"]);
    is_refused(&agent(Err("no such store".into())), &["not known: no such store"]);
    let of_the_image = |facts: &mut Facts<'_>| {
        facts.configuration = Ok(own(true, &["postgresql@15-main.service"]));
        facts.not_held = Ok(vec!["postgresql@15-main.service".to_owned()]);
    };
    is_refused(&verdict("agent", |_| {}, of_the_image), &["nothing would hold postgresql@15-main.service"]);
}
