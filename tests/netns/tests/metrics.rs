//! Metrics: the text format by its own grammar, what they count, and who gets them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use rnet_netns_harness::{Host, SOON, Start, ask, run, wait_for};

/// Name and labels, in order.
type Series = (String, Vec<(String, String)>);

/// A page, read strictly: each family once, with its help and type before its samples, no series twice.
#[derive(Debug, Default)]
struct Page {
    kinds: BTreeMap<String, String>,
    values: BTreeMap<Series, f64>,
}

fn is_name(text: &str) -> bool {
    let mut letters = text.chars();
    letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `key="value",...}` and what is behind it.
fn labels(mut text: &str) -> (Vec<(String, String)>, &str) {
    let mut all = Vec::new();
    loop {
        let (key, rest) = text.split_once("=\"").unwrap_or_else(|| panic!("no label: {text}"));
        assert!(is_name(key), "{key}");
        let mut value = String::new();
        let mut letters = rest.char_indices();
        let end = loop {
            match letters.next().expect("a label ends") {
                (at, '"') => break at,
                (_, '\\') => value.push(match letters.next().expect("something is escaped").1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    other => panic!("\\{other} is no escape"),
                }),
                (_, c) => value.push(c),
            }
        };
        all.push((key.to_owned(), value));
        let rest = &rest[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => text = more,
            None => return (all, rest.strip_prefix('}').unwrap_or_else(|| panic!("no end: {rest}"))),
        }
    }
}

impl Page {
    fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line has an end");
        let mut page = Page::default();
        let (mut family, mut helped) = (String::new(), String::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect("a help has words");
                assert!(!words.is_empty() && !page.kinds.contains_key(name), "{line}");
                name.clone_into(&mut helped);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type");
                assert!(matches!(kind, "counter" | "gauge" | "histogram") && name == helped, "{line}");
                assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
                assert!(page.kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} is there twice");
                name.clone_into(&mut family);
            } else {
                page.sample(line, &family);
            }
        }
        page.histograms();
        page
    }

    fn sample(&mut self, line: &str, family: &str) {
        let end = line.find(['{', ' ']).expect("a sample has a value");
        let (name, rest) = line.split_at(end);
        let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} is not of {family}"));
        let histogram = self.kinds[family] == "histogram";
        let wanted: &[&str] = if histogram { &["_bucket", "_sum", "_count"] } else { &[""] };
        assert!(is_name(name) && wanted.contains(&suffix), "{line}");
        let (labels, value) = match rest.strip_prefix('{') {
            Some(text) => labels(text),
            None => (Vec::new(), rest),
        };
        let value: f64 = value.strip_prefix(' ').and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("{line}"));
        assert!(value.is_finite() && value >= 0.0, "{line}");
        let keys: BTreeSet<&str> = labels.iter().map(|l| l.0.as_str()).collect();
        assert_eq!(keys.len(), labels.len(), "a label twice: {line}");
        assert!(self.values.insert((name.to_owned(), labels), value).is_none(), "twice: {line}");
    }

    /// Buckets grow, and the last one is the count.
    fn histograms(&self) {
        for name in self.kinds.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name) {
            let counts = self.values.iter().filter(|((n, _), _)| *n == format!("{name}_count"));
            for ((_, labels), count) in counts {
                let mut buckets: Vec<(f64, f64)> = Vec::new();
                for ((n, with_le), value) in &self.values {
                    let (le, others): (Vec<_>, Vec<_>) = with_le.iter().cloned().partition(|l| l.0 == "le");
                    if *n == format!("{name}_bucket") && others == *labels {
                        buckets.push((le[0].1.parse().expect("a bound"), *value));
                    }
                }
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert!(buckets.windows(2).all(|w| w[0].1 <= w[1].1), "{name}: {buckets:?}");
                assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)), "{name}");
            }
        }
    }

    /// The value of a series by its name and some of its labels.
    #[track_caller]
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |series: &&Series| {
            series.0 == name && labels.iter().all(|(k, v)| series.1.contains(&((*k).to_owned(), (*v).to_owned())))
        };
        let found: Vec<_> = self.values.keys().filter(fits).collect();
        assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
        self.values[found[0]]
    }
}

fn page(host: &Host) -> Page {
    Page::parse(&host.client().metrics().expect("netd answers"))
}

#[test]
fn what_is_there_and_what_was_done() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.start();
        Page::parse(&host.client().metrics().unwrap());
        host.rnet("network create blue --subnet 10.9.0.0/29").ok();
        for name in ["web", "db"] {
            host.container(name);
            host.rnet(&format!("network connect blue {name}")).ok();
        }
        host.rnet("network connect blue nobody").fails(3, &[]);
        host.run("nsenter --net=/run/netns/web ping -q -c 3 -i 0.01 10.9.0.3").ok();
        host.rnet("publish web 8080-8081:80-81 9000:9000/udp").ok();
        host.rnet("network disconnect blue db").ok();
        let p = page(&host);
        assert_eq!(p.value("rnet_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
        assert!(p.value("rnet_resident_memory_bytes", &[]) > 1e6 && p.value("rnet_uptime_seconds", &[]) > 0.0);
        assert_eq!(p.value("rnet_networks", &[]), 1.0);
        assert_eq!(p.value("rnet_endpoints", &[("network", "blue"), ("state", "ready")]), 1.0);
        let addresses = |state| p.value("rnet_addresses", &[("network", "blue"), ("state", state)]);
        // Of eight: network, broadcast, gateway, one used, one that rests.
        assert_eq!((addresses("used"), addresses("resting"), addresses("free")), (1.0, 1.0, 3.0));
        let connect = [("operation", "connect")];
        assert_eq!(p.value("rnet_attach_seconds_count", &connect), 2.0);
        assert_eq!(p.value("rnet_attach_failures_total", &connect), 1.0);
        assert_eq!(p.value("rnet_detach_seconds_count", &[("operation", "disconnect")]), 1.0);
        assert_eq!(p.value("rnet_events_total", &[("action", "attach")]), 2.0);
        assert_eq!(p.value("rnet_events_overrun_total", &[]), 0.0);
        assert_eq!(p.value("rnet_published_ports", &[("protocol", "tcp")]), 2.0);
        assert_eq!(p.value("rnet_published_ports", &[("protocol", "udp")]), 1.0);
        assert_eq!(p.value("rnet_dns_queries_total", &[("outcome", "answered")]), 0.0);
        assert_eq!(p.value("rnet_filter_repairs_total", &[]), 0.0);
        let web = [("network", "blue"), ("engine", "netns"), ("container", "web"), ("ifname", "eth0")];
        assert!(p.value("rnet_endpoint_transmit_packets_total", &web) >= 3.0);
        assert!(p.value("rnet_endpoint_receive_bytes_total", &web) >= 3.0 * 98.0);
    });
}

/// A query for the A of `name` (RFC 1035, section 4.1).
fn query(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|l| [&[u8::try_from(l.len()).unwrap()][..], l.as_bytes()].concat());
    [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &labels.collect::<Vec<_>>(), &[0, 0, 1, 0, 1]].concat()
}

#[test]
fn queries_and_repairs_are_counted() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        let web = host.container("web");
        host.rnet("network connect blue web").ok();
        web.ip("link set lo up");
        let asked = web.netns.run(|| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
            socket.set_read_timeout(Some(SOON))?;
            socket.send_to(&query("web"), "127.0.0.11:53")?;
            socket.recv(&mut [0; 512])
        });
        asked.unwrap().expect("an answer");
        assert_eq!(page(&host).value("rnet_dns_queries_total", &[("outcome", "answered")]), 1.0);
        let table = host.run("nft list tables").ok().out;
        let table = table.lines().find(|l| l.contains("inet rnet")).expect("the table is there").to_owned();
        if host.run(&format!("nft delete {table}")).code == 0 {
            wait_for("the repair", SOON, || page(&host).value("rnet_filter_repairs_total", &[]) >= 1.0);
        }
    });
}

#[test]
fn over_tcp_to_this_machine_alone() {
    run(|world| {
        let host = world.host("h1");
        host.ip("address add 198.51.100.2/24 dev lo");
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        host.config("[metrics]\nlisten = \"198.51.100.2:9477\"\n");
        let (code, said) = host.start_fails(&Start::default());
        assert!(code == 2 && said.contains("line 2: listen: ") && said.contains("public = true"), "{said}");
        host.config("[metrics]\nlisten = \"127.0.0.1:9477\"\n");
        host.start();
        let answer = ask(&host.netns, at("127.0.0.1:9477"), "GET /metrics", None);
        assert_eq!(answer.status, 200);
        assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
        assert_eq!(Page::parse(&answer.body).value("rnet_networks", &[]), 0.0);
        let status = |head: &str| ask(&host.netns, at("127.0.0.1:9477"), head, None).status;
        assert_eq!(status("GET /"), 404);
        assert_eq!(status("POST /metrics"), 405);
        assert_eq!(status("GET /v1/networks"), 404, "the API is not there");
        assert_eq!(status("GET /metrics\nhost: evil.example:9477"), 421, "a name that somebody made point here");
        assert_eq!(status("GET /metrics\nhost: localhost:9477"), 200);
        let elsewhere = rnet_netns_harness::try_ask(&host.netns, at("198.51.100.2:9477"), "GET /metrics", None);
        assert!(elsewhere.is_err(), "exactly that address");
        host.stop();
        host.config("[metrics]\nlisten = \"198.51.100.2:9477\"\npublic = true\n");
        host.start();
        let named = ask(&host.netns, at("198.51.100.2:9477"), "GET /metrics\nhost: host.example:9477", None);
        assert_eq!(named.status, 200);
        host.stop();
        host.config("[metrics]\nlisten = \"203.0.113.1:9477\"\npublic = true\n");
        let (code, said) = host.start_fails(&Start::default());
        assert!(code == 2 && said.contains("cannot serve metrics at 203.0.113.1:9477"), "{said}");
        host.config("");
    });
}

#[test]
fn a_reader_that_does_not_read_keeps_nobody_out() {
    run(|world| {
        let host = world.host("h1");
        host.config("[metrics]\nlisten = \"127.0.0.1:9477\"\n");
        host.start();
        let at: SocketAddr = "127.0.0.1:9477".parse().unwrap();
        let idle: Vec<_> = (0..15)
            .map(|_| host.netns.run(|| std::net::TcpStream::connect(at)).unwrap().expect("a connection"))
            .collect();
        assert_eq!(ask(&host.netns, at, "GET /metrics", None).status, 200);
        wait_for("the API beside it", SOON, || host.client().version().is_ok());
        drop(idle);
    });
}
