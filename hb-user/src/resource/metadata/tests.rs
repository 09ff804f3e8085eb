//! Descriptions of agents, as they write them and as they should not.

use super::*;
use crate::{config::ResourceKind, resource::Roots};

const DESCRIPTION: &str = r#"
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">
<resource-agent name="lamp" version="0.3">
  <version>1.1</version>
  <longdesc lang="en">A lamp &amp; its switch.</longdesc>
  <parameters>
    <parameter name="socket" unique="1" required="1">
      <longdesc lang="en">Where it is plugged in</longdesc>
      <content type="string"/>
    </parameter>
    <parameter name="colour" required="true"><content type="string" default="white"/></parameter>
    <parameter name="watts" required="1"><content type="integer" default=""/></parameter>
    <parameter name="note" required="0"><content type="string"/></parameter>
  </parameters>
  <actions>
    <action name="start" timeout="2min"/>
    <action name="stop" timeout="90"/>
    <action name="monitor" timeout="20s" interval="10" depth="0"/>
    <action name="monitor" timeout="40s" interval="60" depth="10" role="Promoted"/>
    <action name="monitor" timeout="30s" depth="20"/>
    <action name="meta-data" timeout="5s"/>
  </actions>
</resource-agent>
"#;

fn read(text: &str) -> Result<Metadata, String> {
    Metadata::of(&document(text).map_err(|error| error.to_string())?)
}

fn agent() -> Agent {
    Agent {
        name: "light".into(),
        kind: ResourceKind::Ocf {
            provider: "test".into(),
            agent: "lamp".into(),
            params: vec![],
            check_level: 0,
        },
        roots: Roots::default(),
        start_timeout: Duration::from_secs(1),
        stop_timeout: Duration::from_secs(1),
        status_timeout: Duration::from_secs(1),
        interval: None,
    }
}

fn check(params: &[(&str, &str)]) -> Result<(), String> {
    let params = params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let params: Vec<_> = params.collect();
    read(DESCRIPTION).unwrap().check(&agent(), &params).map_err(|error| error.to_string())
}

#[test]
fn parameters_are_those_it_has_and_none_that_it_needs_is_missing() {
    check(&[("socket", "3"), ("watts", "60")]).unwrap();
    check(&[("colour", "red"), ("note", ""), ("socket", "3"), ("watts", "60")]).unwrap();
    assert_eq!(
        check(&[("socket", "3"), ("color", "red"), ("watts", "1")]).unwrap_err(),
        "resource light: agent ocf:test:lamp has no parameter \"color\"; did you mean \"colour\"?"
    );
    assert_eq!(
        check(&[("x", "")]).unwrap_err(),
        "resource light: agent ocf:test:lamp has no parameter \"x\"; parameters: colour, note, socket, \
         watts; agent ocf:test:lamp needs parameter \"socket\"; add it to params; agent ocf:test:lamp \
         needs parameter \"watts\"; add it to params"
    );
}

#[test]
fn timeouts_are_those_of_the_level_of_checks() {
    let metadata = read(DESCRIPTION).unwrap();
    let seconds = |action, level| metadata.timeout(action, level).map(|time| time.as_secs());
    assert_eq!(seconds("start", 0), Some(120));
    assert_eq!(seconds("stop", 0), Some(90));
    assert_eq!([0, 10, 20].map(|level| seconds("monitor", level)), [20, 40, 40].map(Some));
    assert_eq!(seconds("promote", 0), None);
}

#[test]
fn times_are_read_as_agents_write_them() {
    let read = |text| time(text).map(|time| time.as_millis());
    for (text, millis) in
        [("20", 20_000), ("20s", 20_000), (" 1 min ", 60_000), ("500ms", 500), ("1H", 3_600_000)]
    {
        assert_eq!(read(text), Some(millis), "{text}");
    }
    for text in ["", "s", "0", "1.5s", "-1s", "5 weeks", "99999999999999999999", "25h", "1ms"] {
        assert_eq!(read(text), None, "{text}");
    }
}

#[test]
fn what_is_no_description_is_refused() {
    for (text, say) in [
        ("", "root node"),
        ("usage: lamp start|stop", "unknown token"),
        ("<resource-agent>", "root node"),
        ("<html/>", "is a <html>, no <resource-agent>"),
        ("<resource-agent/>", "has no action start"),
        (
            "<resource-agent><parameters><parameter/></parameters></resource-agent>",
            "a parameter without a name",
        ),
        (
            "<resource-agent><actions><action/></actions></resource-agent>",
            "an action without a name",
        ),
        (
            "<resource-agent><actions><action name=\"start\"/><action name=\"stop\"/></actions>\
             </resource-agent>",
            "has no action monitor",
        ),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(say), "{text}: {error}");
    }
    // Entities that multiply are no way to fill the memory.
    let bomb = "<!DOCTYPE r [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\">\
                <!ENTITY c \"&b;&b;&b;&b;&b;&b;&b;&b;\"><!ENTITY d \"&c;&c;&c;&c;&c;&c;&c;&c;\">\
                <!ENTITY e \"&d;&d;&d;&d;&d;&d;&d;&d;\">]><r>&e;&e;&e;&e;&e;&e;&e;&e;</r>";
    assert!(read(bomb).is_err());
}
