//! `rnet ui` in a real browser: what it shows, that it follows, and whom it refuses.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rnet_netns_harness::{Host, Start, World, ask, path_text, run, run_or_skip, try_ask, wait_for};
use serde_json::{Value, json};

/// A browser needs its time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);
const DRIVER: &str = "127.0.0.1:9515";

/// A program that runs on inside the host's namespace, and ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn begin(host: &Host, program: &Path, words: &[&str], home: &Path) -> Running {
    let netns = format!("--net={}", host.netns_file.display());
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "nsenter", &netns, "--"]).arg(program).args(words);
    command.env("RNET_ROOT", &host.root).env("HOME", home).env_remove("XDG_RUNTIME_DIR");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    Running(command.spawn().expect("setpriv and nsenter are installed"))
}

/// `rnet ui`: the program, its address, and the part of its page's address behind that.
fn serve(host: &Host) -> (Running, SocketAddr, String) {
    let mut ui = begin(host, &host.rnet_program(), &["ui", "--port", "0", "--json"], &host.root);
    let mut line = String::new();
    BufReader::new(ui.0.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("it prints its address");
    let url = serde_json::from_str::<Value>(&line).expect("JSON")["url"].as_str().expect("an address").to_owned();
    let (at, path) = url.strip_prefix("http://").and_then(|u| u.split_once('/')).expect("an address");
    (ui, at.parse().expect("an address"), format!("/{path}"))
}

/// Three containers on two networks; labels of one try to be markup.
fn lively(world: &World) -> Host {
    let host = world.host("h1");
    host.forwarding_may_stay();
    host.start();
    host.rnet("network create blue --subnet 10.9.0.0/24").ok();
    host.rnet_words(&[
        "network",
        "create",
        "green",
        "--internal",
        "--label",
        "x=<img src=x onerror=document.title='broken'>",
    ])
    .ok();
    for name in ["web", "db"] {
        host.container(name);
        host.rnet(&format!("network connect blue {name}")).ok();
    }
    host.rnet("network connect green web --ifname lan").ok();
    host.rnet("publish web 8080:80").ok();
    host
}

/// A session of a browser (WebDriver, W3C recommendation).
struct Browser<'a> {
    host: &'a Host,
    session: String,
    _driver: Running,
}

impl<'a> Browser<'a> {
    fn open(host: &'a Host, url: &str) -> Self {
        let home = host.root.join("browser");
        std::fs::create_dir(&home).expect("a test's files can be written");
        let driver = begin(host, Path::new("chromedriver"), &["--port=9515"], &home);
        let at = DRIVER.parse().expect("an address");
        let ready = || try_ask(&host.netns, at, "GET /status", None).is_ok_and(|a| a.status == 200);
        wait_for("chromedriver to answer", PATIENCE, ready);
        let profile = format!("--user-data-dir={}", path_text(&home.join("profile")));
        let words = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1300,900",
            &profile,
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": words}, "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = ask(&host.netns, at, "POST /session", Some(&wanted)).json();
        let id = session["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("{session}")).to_owned();
        let browser = Browser { host, session: id, _driver: driver };
        browser.call("POST", "url", &json!({ "url": url }));
        browser
    }

    fn call(&self, method: &str, what: &str, body: &Value) -> Value {
        let head = format!("{method} /session/{}/{what}", self.session);
        let body = (method == "POST").then_some(body);
        ask(&self.host.netns, DRIVER.parse().expect("an address"), &head, body).json()["value"].take()
    }

    fn run(&self, script: &str) -> Value {
        self.call("POST", "execute/sync", &json!({"script": script, "args": []}))
    }

    fn text(&self) -> String {
        self.run("return document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    fn shows(&self, words: &[&str]) {
        let mut last = String::new();
        wait_for(&format!("the page to show {words:?}"), PATIENCE, || {
            last = self.text();
            let there = words.iter().all(|w| last.contains(w));
            if !there && std::env::var_os("RNET_UI_SHOW").is_some() {
                eprintln!("{last}\n----");
            }
            there
        });
    }
}

impl Drop for Browser<'_> {
    fn drop(&mut self) {
        let head = format!("DELETE /session/{}", self.session);
        let _ = try_ask(&self.host.netns, DRIVER.parse().expect("an address"), &head, None);
    }
}

fn lacks() -> Option<String> {
    let there = |program: &str| Command::new(program).arg("--version").output().is_ok();
    (!there("chromedriver")).then(|| "chromedriver, package chromium-driver".to_owned())
}

#[test]
fn a_browser_shows_it_and_follows() {
    run_or_skip(lacks, |world| {
        let host = lively(world);
        let (_ui, at, path) = serve(&host);
        let browser = Browser::open(&host, &format!("http://{at}{path}"));
        browser.shows(&["blue", "10.9.0.0/24", "green", "internal", "web", "10.9.0.2/24", "db", "10.9.0.3/24", "lan"]);
        browser.shows(&["network-create", "attach", "netd 0.", "8080 → 80"]);
        // Traffic, within the seconds that pass until the next look.
        let flow = packets(&host);
        wait_for("traffic to show", PATIENCE, || {
            let shown = browser.run("return document.getElementById('n-rx').textContent");
            shown.as_str().is_some_and(|t| t != "0 B/s")
        });
        drop(flow);
        // What happens is there without anybody asking again.
        host.container("late");
        host.rnet("network connect blue late --ip 10.9.0.99").ok();
        browser.shows(&["late", "10.9.0.99/24"]);
        host.rnet("network disconnect blue late").ok();
        wait_for("the container to go", PATIENCE, || !browser.text().contains("10.9.0.99/24\n"));
        // A label is text.
        browser.shows(&["x=<img src=x onerror=document.title='broken'>"]);
        assert_eq!(browser.run("return document.title"), "rnet");
        assert_eq!(browser.run("return document.querySelectorAll('img').length"), 0);
        let forbidden = "try { document.body.innerHTML = '<b>x</b>'; return 'done' } catch (e) { return e.name }";
        assert_eq!(browser.run(forbidden), "TypeError", "the page may not make markup of text");
        // By keyboard alone: search, then the first container, then its details.
        let searched = "document.dispatchEvent(new KeyboardEvent('keydown', {key: '/'}));
            return document.activeElement.id";
        assert_eq!(browser.run(searched), "search");
        let found = "const s = document.getElementById('search'); s.value = '10.9.0.3';
            s.dispatchEvent(new Event('input'));
            return [...document.querySelectorAll('.card')].map((c) => c.querySelector('.word').textContent)";
        assert_eq!(browser.run(found), json!(["db"]));
        browser.run("const c = document.querySelector('.card'); c.focus(); c.click()");
        browser.shows(&["/run/netns/db", "host end"]);
        browser.run(
            "document.getElementById('dialog').close();
            const s = document.getElementById('search'); s.value = ''; s.dispatchEvent(new Event('input'))",
        );
        // netd goes away and comes back.
        host.stop();
        browser.shows(&["netd does not answer", "netd is not running"]);
        host.start_with(&Start::default());
        browser.shows(&["netd 0.", "10.9.0.2/24"]);
        assert_eq!(browser.run("return document.body.classList.contains('away')"), false);
        let log = browser.call("POST", "se/log", &json!({"type": "browser"}));
        let policy: Vec<&Value> = log
            .as_array()
            .into_iter()
            .flatten()
            .filter(|l| {
                l["message"].as_str().is_some_and(|m| m.contains("Security Policy") && !m.contains("TrustedHTML"))
            })
            .collect();
        assert!(policy.is_empty(), "{policy:?}");
    });
}

/// Packets between two containers, for as long as it lives.
fn packets(host: &Host) -> Running {
    let words = ["--net=/run/netns/web", "ping", "-q", "-i", "0.01", "10.9.0.3"];
    begin(host, Path::new("nsenter"), &words, &host.root)
}

#[test]
fn three_hundred_containers_are_drawn() {
    run_or_skip(lacks, |world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/22").ok();
        let (_ui, at, path) = serve(&host);
        let browser = Browser::open(&host, &format!("http://{at}{path}"));
        browser.shows(&["blue", "no containers"]);
        let names: Vec<String> = (0..300).map(|n| format!("crowd-{n}")).collect();
        for name in &names {
            let container = host.container(name);
            let connect = rnet_api::NetworkConnect {
                container: rnet_model::ContainerRef::NetnsPath(container.path.clone()),
                identity: None,
                options: rnet_model::EndpointOptions::default(),
            };
            host.client().connect_network("blue", &connect).unwrap();
        }
        wait_for("all to be drawn", PATIENCE, || {
            browser.run("return document.querySelectorAll('.card').length") == 300
        });
        assert_eq!(browser.run("return document.getElementById('n-containers').textContent"), "300");
        let fits = browser.run("return document.documentElement.scrollWidth <= innerWidth");
        assert_eq!(fits, true, "nothing is wider than the window");
    });
}

#[test]
fn only_who_knows_the_address() {
    run(|world| {
        let host = lively(world);
        let (_ui, at, path) = serve(&host);
        let status = |head: &str| ask(&host.netns, at, head, None).status;
        let page = ask(&host.netns, at, &format!("GET {path}"), None);
        assert_eq!(page.status, 200);
        for words in ["default-src 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"] {
            assert!(page.head.contains(words), "no {words:?} in {}", page.head);
        }
        for words in ["referrer-policy: no-referrer", "cache-control: no-store", "x-content-type-options: nosniff"] {
            assert!(page.head.contains(words), "no {words:?} in {}", page.head);
        }
        let nonce = page.head.split("script-src 'nonce-").nth(1).and_then(|h| h.split('\'').next()).unwrap();
        assert!(page.body.contains(&format!("<script nonce=\"{nonce}\">")) && !page.body.contains("@NONCE@"));
        assert_ne!(ask(&host.netns, at, &format!("GET {path}"), None).body, page.body, "another word each time");
        let networks = ask(&host.netns, at, &format!("GET {path}api/networks"), None).json();
        assert_eq!(networks.as_array().map(Vec::len), Some(2));
        let wrong = format!("/{}/", "0".repeat(path.len() - 2));
        for (head, wanted) in [
            (format!("GET {wrong}"), 403),
            (format!("GET {wrong}api/networks"), 403),
            ("GET /".to_owned(), 404),
            ("GET /v1/networks".to_owned(), 403),
            (format!("GET {path}api/openapi.json"), 404),
            (format!("GET {path}api/../networks"), 404),
            (format!("GET {path}api/metrics"), 404),
            (format!("POST {path}api/networks"), 405),
            (format!("DELETE {path}api/networks"), 405),
            (format!("GET {path}\nhost: evil.example:{}", at.port()), 421),
            (format!("GET {path}api/networks\nhost: evil.example"), 421),
            (format!("GET {path}api/networks\nhost: localhost:{}", at.port()), 200),
        ] {
            assert_eq!(status(&head), wanted, "{head}");
        }
        host.ip("address add 198.51.100.2/24 dev lo");
        let other = SocketAddr::new("198.51.100.2".parse().unwrap(), at.port());
        assert!(try_ask(&host.netns, other, &format!("GET {path}"), None).is_err(), "this machine alone");
        host.ip("address del 198.51.100.2/24 dev lo");
        host.stop();
        let gone = ask(&host.netns, at, &format!("GET {path}api/networks"), None);
        assert!(gone.status >= 500 && gone.body.contains("netd is not running"), "{gone:?}");
        host.start();
        assert_eq!(status(&format!("GET {path}api/networks")), 200, "netd is asked again");
    });
}
