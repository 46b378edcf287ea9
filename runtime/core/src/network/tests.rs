use super::*;

fn words(text: &[&str]) -> Vec<NetWord> {
    text.iter().map(|w| w.parse().unwrap()).collect()
}

fn settings(text: &[&str]) -> Result<NetworkSettings, ApiError> {
    NetworkSettings::from_words(&words(text), EndpointOptions::default())
}

#[test]
fn the_long_form() {
    let text = "name=blue,ip=10.9.0.7,ip6=fd00::7,alias=web,alias=www,mac-address=02:00:00:00:00:07,ifname=lan0,\
                gw-priority=-10,allow-spoof";
    let one = settings(&[text]).unwrap();
    assert_eq!(one.mode.to_string(), "blue");
    let options = &one.networks[0].options;
    assert_eq!(options.ips, ["10.9.0.7", "fd00::7"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    assert_eq!(options.aliases.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["web", "www"]);
    assert_eq!(options.mac.map(|m| m.to_string()).as_deref(), Some("02:00:00:00:00:07"));
    assert_eq!(options.ifname.as_ref().map(AsRef::as_ref), Some("lan0"));
    assert_eq!((options.gw_priority, options.allow_spoof), (-10, true));
    for (bad, why) in [
        ("name=blue,green", "\"green\" has no value"),
        ("blue,ip=10.9.0.7", "\"blue\" has no value"),
        ("name=blue,color=red", "there is no option \"color\""),
        ("name=blue,gw-priority=1,gw-priority=2", "says gw-priority twice"),
        ("name=blue,name=green", "says name twice"),
        ("ip=10.9.0.7", "does not say which network"),
        ("name=host", "is the name of a network mode"),
        ("name=blue,ip=10.9.0", "is not an IP address"),
        ("name=blue,ip=10.9.0.7,ip6=10.9.0.8", "is a second IPv4 address"),
        ("name=blue,alias=a b", "DNS name"),
        ("name=blue,allow-spoof=maybe", "neither true nor false"),
        ("name=blue,", "\"\" has no value"),
    ] {
        let refused = bad.parse::<NetWord>().unwrap_err().to_string();
        assert!(refused.contains(why), "{bad}: {refused}");
    }
}

#[test]
fn several_words() {
    assert_eq!(settings(&[]).unwrap().mode, NetworkMode::default());
    assert_eq!(settings(&["blue,green"]), settings(&["blue", "name=green"]));
    assert_eq!(settings(&["blue,green", "name=red,gw-priority=1"]).unwrap().mode.to_string(), "blue,green,red");
    assert_eq!(settings(&["host"]).unwrap().networks, []);
    for bad in [&["host", "blue"][..], &["blue", "none"], &["container:x", "blue"], &["blue", "name=blue"]] {
        assert_eq!(settings(bad).unwrap_err().kind, Kind::Invalid, "{bad:?}");
    }
}

#[test]
fn options_of_the_first_network() {
    let first = |net: &[&str], options: &EndpointOptions| NetworkSettings::from_words(&words(net), options.clone());
    let ips = EndpointOptions { ips: vec!["10.9.0.7".parse().unwrap()], ..EndpointOptions::default() };
    let got = first(&["blue,green"], &ips).unwrap();
    assert_eq!((&got.networks[0].options, got.networks[1].options.ips.len()), (&ips, 0));
    assert!(first(&["name=blue,ip=10.9.0.8"], &ips).is_err());
    assert!(first(&["name=blue,alias=a"], &ips).is_ok());
    for mode in ["host", "none", "container:x"] {
        assert!(first(&[mode], &ips).is_err(), "{mode}");
        assert!(first(&[mode], &EndpointOptions::default()).is_ok(), "{mode}");
    }
}

#[test]
fn words_that_do_not_fit() {
    let check = |mode: &str, change: fn(&mut NetworkSettings)| {
        let mut settings = settings(&[mode]).unwrap();
        change(&mut settings);
        settings.check().map(|warnings| warnings.len()).map_err(|e| e.hint.unwrap_or_default())
    };
    let ports: fn(&mut NetworkSettings) = |s| s.ports.push("80:80".parse().unwrap());
    let link: fn(&mut NetworkSettings) = |s| s.links.push("db".parse().unwrap());
    let dns: fn(&mut NetworkSettings) = |s| s.dns.servers.push("192.0.2.1".parse().unwrap());
    let gateway: fn(&mut NetworkSettings) = |s| s.extra_hosts.push("h:host-gateway".parse().unwrap());
    assert_eq!(check("blue", ports), Ok(0));
    assert_eq!(check("host", ports), Ok(1));
    assert!(check("none", ports).unwrap_err().contains("--net NETWORK -p"));
    assert!(check("container:web", ports).unwrap_err().contains("for web"));
    for mode in ["host", "none", "container:web"] {
        assert!(check(mode, link).is_err(), "{mode}");
    }
    assert_eq!((check("host", dns), check("none", dns), check("host", gateway)), (Ok(0), Ok(0), Ok(0)));
    assert!(check("container:web", dns).is_err() && check("container:web", gateway).is_err());
    assert!(check("none", gateway).is_err());
    assert!(check("blue", |s| s.links = vec!["a:x".parse().unwrap(), "b:x".parse().unwrap()]).is_err());
}

#[test]
fn records_of_the_version_before() {
    let text = r#"{"mode":"blue,green","ips":["10.9.0.7"],"mac":"02:00:00:00:00:07"}"#;
    let old: NetworkSettings = serde_json::from_str(text).unwrap();
    assert_eq!(old.networks.len(), 2);
    assert_eq!(old.networks[0].options.ips, ["10.9.0.7".parse::<IpAddr>().unwrap()]);
    assert!(old.networks[0].options.mac.is_some() && old.networks[1].options == EndpointOptions::default());
    let again: NetworkSettings = serde_json::from_str(&serde_json::to_string(&old).unwrap()).unwrap();
    assert_eq!(again, old);
    let host: NetworkSettings = serde_json::from_str(r#"{"mode":"host","ips":[],"mac":null}"#).unwrap();
    assert_eq!(host, NetworkSettings::of(NetworkMode::Host));
}

#[test]
fn what_others_are_told() {
    let mut settings = NetworkSettings::of(NetworkMode::default());
    settings.expose.push("5432".parse().unwrap());
    settings.ports.push("8080-8081:80-81/udp".parse().unwrap());
    let all: Vec<String> = settings.listening().iter().map(ToString::to_string).collect();
    assert_eq!(all, ["5432/tcp", "80-81/udp"]);
}
