//! Types of resources: what each has for keys, what is refused, what must be equal and what is taken live.

use super::*;

const SCRIPT: &str = "type = \"script\"\nprogram = \"/usr/local/bin/db\"\n";

/// The good file, with that in the place of the last resource.
fn written(resource: &str) -> String {
    assert!(GOOD.ends_with(SCRIPT));
    format!("{}{resource}\n", GOOD.strip_suffix(SCRIPT).unwrap())
}

fn read(resource: &str) -> Resource {
    let config = parse(&written(resource)).unwrap_or_else(|errors| panic!("{errors}"));
    config.groups[1].resources[0].clone()
}

const OCF: &str = "type = \"ocf\"\nagent = \"heartbeat:Dummy\"\n\
                   params = { state = \"/run/x\", count = 3, on = true }\ncheck_level = 10";

#[test]
fn each_type_is_read() {
    let resource = read(OCF);
    let params = [("count", "3"), ("on", "true"), ("state", "/run/x")];
    assert_eq!(
        resource.kind,
        ResourceKind::Ocf {
            provider: "heartbeat".into(),
            agent: "Dummy".into(),
            params: params.map(|(name, value)| (name.into(), value.into())).into(),
            check_level: 10,
        }
    );
    assert_eq!(resource.kind.to_string(), "ocf:heartbeat:Dummy");
    let class = read("type = \"ocf\"\nagent = \"ocf:heartbeat:Dummy\"").kind;
    assert_eq!(class.to_string(), "ocf:heartbeat:Dummy");
    let table =
        "type = \"ocf\"\nagent = \"heartbeat:Dummy\"\n[group.resource.params]\nstate = \"/x\"";
    let ResourceKind::Ocf { params, .. } = read(table).kind else { panic!() };
    assert_eq!(params, [("state".to_owned(), "/x".to_owned())]);

    let lsb = read("type = \"lsb\"\nprogram = \"/etc/init.d/db\"").kind;
    assert_eq!(lsb, ResourceKind::Lsb { program: "/etc/init.d/db".into() });
    assert_eq!(lsb.to_string(), "lsb");
    for (agent, script, args) in [
        ("db", "db", &[][..]),
        ("apache::/etc/apache.conf", "apache", &["/etc/apache.conf"]),
        ("IPaddr::192.0.2.9/24/eth0", "IPaddr", &["192.0.2.9/24/eth0"]),
        ("Filesystem::/dev/sdb1::/srv::ext4", "Filesystem", &["/dev/sdb1", "/srv", "ext4"]),
    ] {
        let kind = read(&format!("type = \"heartbeat\"\nagent = {agent:?}")).kind;
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        assert_eq!(kind, ResourceKind::Heartbeat { script: script.into(), args });
        assert_eq!(kind.to_string(), format!("heartbeat:{script}"));
    }
}

#[test]
fn a_timeout_that_the_file_does_not_give_is_the_agents() {
    let mut resource = read(&format!("{OCF}\nstart_timeout = \"1m\""));
    assert_eq!(resource.start_timeout, Timeout::Fixed(Duration::from_secs(60)));
    assert_eq!(resource.stop_timeout.get(), Duration::from_secs(20));
    assert_eq!(resource.status_timeout.get(), Duration::from_secs(5));
    let advised = Some(Duration::from_secs(90));
    resource.start_timeout.advise(advised);
    resource.stop_timeout.advise(advised);
    resource.status_timeout.advise(None);
    let times = [resource.start_timeout, resource.stop_timeout, resource.status_timeout];
    assert_eq!(times.map(|time| time.get().as_secs()), [60, 90, 5]);
    // That it was asked is no difference; that the file begins to say the same is one.
    let mut asked = parse(&written(OCF)).unwrap();
    asked.groups[1].resources[0].stop_timeout.advise(advised);
    assert_eq!(asked.differences(&parse(&written(OCF)).unwrap()), []);
    assert_eq!(asked.fingerprint(), parse(&written(OCF)).unwrap().fingerprint());
    let said = parse(&written(&format!("{OCF}\nstop_timeout = \"90s\""))).unwrap();
    let keys: Vec<_> = asked.differences(&said).into_iter().map(|found| found.key).collect();
    assert_eq!(keys, ["group.db.resource.svc.stop_timeout"]);
}

#[test]
fn what_is_wrong_is_named_with_what_to_write() {
    for (resource, on, say) in [
        ("type = \"ofc\"", "ofc", "type = \"ofc\" is unknown; did you mean \"ocf\"?"),
        (
            "type = \"ocf\"",
            "[[group.resource]]",
            "agent is missing in [[group.resource]]; name the",
        ),
        (
            "type = \"ocf\"\nagent = \"heartbeat:Dummy\"\nparms = { a = 1 }",
            "parms",
            "unknown key \"parms\" in [[group.resource]]; did you mean \"params\"?",
        ),
        (
            "type = \"ocf\"\nagent = \"heartbeat:Dummy\"\nprogram = \"/x\"",
            "program",
            "program is a key of type \"script\" and \"lsb\", and this resource has type = \"ocf\"; \
             name its agent with",
        ),
        (
            "type = \"ocf\"\nagent = \"heartbeat:Dummy\"\nargs = [\"x\"]",
            "args",
            "args is a key of type \"script\", and this resource has type = \"ocf\"; give it `params",
        ),
        (
            "type = \"script\"\nprogram = \"/x\"\nparams = { a = 1 }",
            "params",
            "params is a key of type \"ocf\", and this resource has type = \"script\"; give it `args",
        ),
        (
            "type = \"script\"\nprogram = \"/x\"\nagent = \"a:b\"",
            "agent",
            "agent is a key of type \"ocf\" and \"heartbeat\"",
        ),
        (
            "type = \"lsb\"\nprogram = \"/x\"\nargs = [\"x\"]",
            "args",
            "this resource has type = \"lsb\"; remove it; type \"lsb\" has program",
        ),
        (
            "type = \"heartbeat\"\nagent = \"x\"\ncheck_level = 10",
            "check_level",
            "check_level is a key of type \"ocf\"",
        ),
        (
            "type = \"heartbeat\"\nagent = \"x\"\nargs = [\"x\"]",
            "args",
            "write arguments as `agent = \"SCRIPT::ARG\"`",
        ),
        ("type = \"lsb\"\nprogram = \"db\"", "\"db\"\n", "program = \"db\" is not absolute"),
        ("type = \"ocf\"\nagent = \"Dummy\"", "agent", "is no provider and type; write them as"),
        ("type = \"ocf\"\nagent = \"heartbeat:../x\"", "agent", "is no provider and type"),
        ("type = \"ocf\"\nagent = \"a:b:c\"", "agent", "is no provider and type"),
        (
            "type = \"ocf\"\nagent = \"a:b\"\nparams = \"x\"",
            "params",
            "params = \"x\" is no table; write it as params = { NAME",
        ),
        ("type = \"ocf\"\nagent = \"a:b\"\nparams = { a = [] }", "params", "a = [..] is no text"),
        (
            "type = \"ocf\"\nagent = \"a:b\"\nparams = { a-b = 1 }",
            "params",
            "parameter \"a-b\" is no name of a parameter; use letters",
        ),
        (
            "type = \"ocf\"\nagent = \"a:b\"\nparams = { CRM_meta_timeout = 1 }",
            "params",
            "parameter \"CRM_meta_timeout\" is set by hb",
        ),
        (
            "type = \"ocf\"\nagent = \"a:b\"\nparams = { a = \"\\u0000\" }",
            "params",
            "parameter \"a\" has a zero byte in its value",
        ),
        ("type = \"ocf\"\nagent = \"a:b\"\ncheck_level = 100", "check_level", "from 0 to 99"),
        ("type = \"heartbeat\"\nagent = \"192.0.2.9/24\"", "agent", "is an address; write it as"),
        ("type = \"heartbeat\"\nagent = \"/etc/init.d/x\"", "agent", "names no script"),
        ("type = \"heartbeat\"\nagent = \"x::\"", "agent", "has an argument without a letter"),
        ("type = \"heartbeat\"\nagent = \"x::a b\"", "agent", "has a space or a zero byte in it"),
    ] {
        let text = written(resource);
        let errors = parse(&text).err().unwrap_or_else(|| panic!("accepted: {resource}"));
        let [error] = errors.errors() else { panic!("not one error for {resource}:\n{errors}") };
        assert!(error.message.contains(say), "{resource}:\n{errors}\nnot: {say}");
        let last = text.rfind(on).unwrap();
        let line = text[..last].matches('\n').count() + 1;
        assert_eq!(error.position.unwrap().line, line, "{resource}: {errors}");
    }
}

#[test]
fn every_key_of_a_type_makes_a_difference_where_it_should() {
    let heartbeat = "type = \"heartbeat\"\nagent = \"x::1\"";
    let lsb = "type = \"lsb\"\nprogram = \"/etc/init.d/x\"";
    for (from, to, key, live) in [
        (OCF, OCF.replace("heartbeat:", "other:"), "agent", false),
        (OCF, OCF.replace("Dummy", "Smart"), "agent", false),
        (OCF, OCF.replace("state", "stale"), "params", false),
        (OCF, OCF.replace("level = 10", "level = 20"), "check_level", true),
        (heartbeat, heartbeat.replace("x::1", "y::1"), "agent", false),
        (heartbeat, heartbeat.replace("x::1", "x::2"), "agent", false),
        (lsb, lsb.replace(".d/x", ".d/y"), "program", false),
        (lsb, lsb.replace("lsb", "script"), "type", false),
        (lsb, format!("{lsb}\nstop_timeout = \"1m\""), "stop_timeout", true),
        (SCRIPT, format!("{SCRIPT}args = [\"x\"]"), "args", false),
    ] {
        let (mut old, new) = (parse(&written(from)).unwrap(), parse(&written(&to)).unwrap());
        let found = old.differences(&new);
        let key = format!("group.db.resource.svc.{key}");
        let way = if live { Way::Live } else { Way::Group };
        assert_eq!(found, [Difference { key, way }], "{to}");
        assert_ne!(old.fingerprint(), new.fingerprint(), "{to}");
        old.adopt(&new);
        assert_eq!(old.differences(&new).is_empty(), live, "{to}");
    }
    // Values may be secret, and a fingerprint is not.
    let (one, other) = (written(OCF), written(&OCF.replace("/run/x", "/run/y")));
    let (one, other) = (parse(&one).unwrap(), parse(&other).unwrap());
    assert_eq!(one.fingerprint(), other.fingerprint());
    let keys: Vec<_> = one.differences(&other).into_iter().map(|found| found.key).collect();
    assert_eq!(keys, ["group.db.resource.svc.params"]);
}

/// The script of the good file with this check.
fn checked(keys: &str) -> String {
    format!("{SCRIPT}[[group.resource.check]]\n{keys}")
}

#[test]
fn each_check_is_read() {
    let address = "127.0.0.1:80".parse().unwrap();
    let url = Url { address, path: "/a?b=c".into() };
    for (keys, kind, said) in [
        (
            "type = \"tcp\"\naddress = \"127.0.0.1:80\"",
            CheckKind::Tcp { address },
            "tcp 127.0.0.1:80",
        ),
        (
            "type = \"http\"\nurl = \"http://127.0.0.1/a?b=c\"\nstatus = 204\nbody = \"x\"",
            CheckKind::Http { url, status: 204, body: Some("x".into()) },
            "http http://127.0.0.1:80/a?b=c",
        ),
        (
            "type = \"unix\"\npath = \"/run/x\"",
            CheckKind::Unix { path: "/run/x".into() },
            "unix /run/x",
        ),
        (
            "type = \"exec\"\ncommand = [\"/bin/x\", \"y\"]",
            CheckKind::Exec { command: vec!["/bin/x".into(), "y".into()] },
            "exec /bin/x y",
        ),
        (
            "type = \"file\"\npath = \"/run/x\"\nmax_age = \"2s\"",
            CheckKind::File { path: "/run/x".into(), max_age: Duration::from_secs(2) },
            "file /run/x",
        ),
    ] {
        let check = read(&checked(keys)).checks.remove(0);
        assert_eq!((check.kind.to_string().as_str(), &check.kind), (said, &kind));
        let second = Duration::from_secs(1);
        assert_eq!((check.interval, check.timeout), (second, second));
        assert_eq!((check.rise, check.fall, check.standby), (2, 3, false));
    }
    let text = checked(
        "type = \"tcp\"\naddress = \"[::1]:80\"\ninterval = \"1ms\"\ntimeout = \"2ms\"\nrise = 4\n\
         fall = 5\nstandby = true\n[[group.resource.check]]\ntype = \"unix\"\npath = \"/x\"",
    );
    let checks = read(&text).checks;
    let [first, _] = &checks[..] else { panic!("{checks:?}") };
    let ms = Duration::from_millis;
    assert_eq!((first.interval, first.timeout), (ms(1), ms(2)));
    assert_eq!((first.rise, first.fall, first.standby), (4, 5, true));
    assert_eq!(Url::parse("http://[::1]:8080").unwrap().to_string(), "http://[::1]:8080/");
}

#[test]
fn a_check_that_cannot_be_made_is_refused() {
    for (keys, message) in [
        ("type = \"icmp\"", "type = \"icmp\" is unknown"),
        ("address = \"127.0.0.1:80\"", "type is missing"),
        ("type = \"tcp\"", "address is missing"),
        ("type = \"tcp\"\naddress = \"localhost:80\"", "is no address and port"),
        ("type = \"tcp\"\naddress = \"127.0.0.1:80\"\npath = \"/x\"", "path is no key of a check"),
        ("type = \"http\"\nurl = \"https://127.0.0.1/\"", "is none that can be asked for"),
        ("type = \"http\"\nurl = \"http://localhost/\"", "is none that can be asked for"),
        ("type = \"http\"\nurl = \"http://127.0.0.1/a b\"", "is none that can be asked for"),
        ("type = \"http\"\nurl = \"http://127.0.0.1/\"\nstatus = 99", "status"),
        ("type = \"unix\"\npath = \"x\"", "is not absolute"),
        ("type = \"exec\"", "command is missing"),
        ("type = \"exec\"\ncommand = []", "command is empty"),
        ("type = \"exec\"\ncommand = [\"x\"]", "is not absolute"),
        ("type = \"exec\"\ncommand = [\"/x\"]\ninterval = \"1ms\"", "interval 1ms is outside 10ms"),
        ("type = \"file\"\npath = \"/x\"", "max_age is missing"),
        ("type = \"unix\"\npath = \"/x\"\nfall = 0", "fall"),
        ("type = \"unix\"\npath = \"/x\"\nintervall = \"1s\"", "unknown key \"intervall\""),
    ] {
        let report = parse(&written(&checked(keys))).expect_err(keys).to_string();
        assert!(report.contains(message), "{report}\nnot: {message}");
    }
}

#[test]
fn what_watches_is_taken_live_and_need_not_be_equal() {
    let one = parse(&written(SCRIPT)).unwrap();
    let text = checked("type = \"unix\"\npath = \"/x\"");
    let text = text.replace("type = \"script\"", "type = \"script\"\npid_file = \"/run/x.pid\"");
    let other = parse(&written(&text)).unwrap();
    let resource = &other.groups[1].resources[0];
    assert_eq!(resource.pid_file.as_deref(), Some(Path::new("/run/x.pid")));
    let relative = written(&text.replace("/run/x.pid", "x.pid"));
    assert!(parse(&relative).unwrap_err().to_string().contains("is not absolute"));
    assert_eq!(one.fingerprint(), other.fingerprint());
    let differences = one.differences(&other);
    let found: Vec<_> = differences.iter().map(|one| (one.key.as_str(), one.way)).collect();
    let keys = ["group.db.resource.svc.pid_file", "group.db.resource.svc.check"];
    assert_eq!(found, keys.map(|key| (key, Way::Live)));
    let mut running = one;
    running.adopt(&other);
    assert_eq!(running.differences(&other), []);
}
