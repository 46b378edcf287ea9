use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Bench, Nothing, environment, request, result, write_script};
use crate::runtime::exec::safe_for;
use crate::runtime::{Directories, Limits};
use crate::{Call, CniResult, Command, Error, Plugin as _, Version, View, Work};

/// ADD of an executable.
pub(super) fn add(bench: &Bench, directories: &Directories, kind: &str, version: Version) -> Result<CniResult, Error> {
    let (env, request) = (environment(bench), request(version, kind));
    let call = Call { env: &env, request: &request, netns: None, previous: None, leased: None };
    match directories.find(kind)?.add(&call, &mut View::new(&mut Nothing))? {
        Work::Done(result) => Ok(result),
        Work::Planned(..) => unreachable!("an executable has done it"),
    }
}

#[test]
fn every_command_gets_its_variables_and_stdin_and_nothing_else() {
    let bench = Bench::new();
    let dump = bench.path("env");
    bench.noting(
        "p",
        &format!("env | sort > {}.$CNI_COMMAND; if [ $CNI_COMMAND = ADD ]; then echo '{{}}'; fi", dump.display()),
    );
    let (env, request) = (environment(&bench), request(Version::NEWEST, "p"));
    let call = Call { env: &env, request: &request, netns: None, previous: None, leased: None };
    let plugin = bench.directories().find("p").unwrap();
    let mut surfaces = Nothing;
    let mut view = View::new(&mut surfaces);
    assert!(matches!(plugin.add(&call, &mut view), Ok(Work::Done(_))));
    assert!(plugin.del(&call, &mut view).unwrap().steps.is_empty());
    plugin.check(&call, &mut view).unwrap();
    assert!(plugin.gc(&call, &[], &mut view).unwrap().steps.is_empty());
    plugin.status(&call, &mut view).unwrap();
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        let text = std::fs::read_to_string(format!("{}.{command}", dump.display())).unwrap();
        // The shell sets these by itself.
        let lines: Vec<&str> = text
            .lines()
            .filter(|l| !["PWD=", "_=", "SHLVL=", "OLDPWD="].iter().any(|own| l.starts_with(own)))
            .filter(|l| !l.starts_with("PATH="))
            .collect();
        let expected = [
            "CNI_ARGS=A=1;B=2".to_owned(),
            format!("CNI_COMMAND={command}"),
            "CNI_CONTAINERID=c1".to_owned(),
            "CNI_IFNAME=eth0".to_owned(),
            "CNI_NETNS=/run/netns/c1".to_owned(),
            format!("CNI_PATH={}:/second", bench.bin().display()),
        ];
        assert_eq!(lines, expected, "{command}");
        assert!(text.contains("PATH=/"));
        assert_eq!(bench.stdin("p", command), request.whole);
    }
}

#[test]
fn r16_results_of_every_version_are_read() {
    let bench = Bench::new();
    for version in Version::ALL {
        let mut value = result("eth0").to_json(version);
        bench.script("p", &format!("echo '{value}'"));
        let read = add(&bench, &bench.directories(), "p", version).unwrap();
        assert_eq!(read.ips, result("eth0").ips, "{version}");
        for empty in [Some(""), None] {
            match empty {
                Some(text) => value["cniVersion"] = text.into(),
                None => drop(value.as_object_mut().unwrap().remove("cniVersion")),
            }
            bench.script("p", &format!("echo '{value}'"));
            assert_eq!(add(&bench, &bench.directories(), "p", version).unwrap(), read, "{version}, its own unsaid");
        }
        bench.script("p", "true");
        match add(&bench, &bench.directories(), "p", version) {
            Ok(empty) => assert!(version < Version::V0_3_0 && empty == CniResult::default(), "{version}"),
            Err(e) => assert!(version >= Version::V0_3_0 && e.code == Error::DECODING_FAILURE, "{version}: {e}"),
        }
        bench.script("p", "echo '{\"cniVersion\": \"5.0.0\"}'");
        assert_eq!(add(&bench, &bench.directories(), "p", version).unwrap_err().code, Error::INCOMPATIBLE_VERSION);
    }
}

#[test]
fn c10_folders_are_searched_in_order_for_regular_files() {
    let bench = Bench::new();
    for folder in ["one", "two"] {
        std::fs::create_dir(bench.path(folder)).unwrap();
        std::fs::set_permissions(bench.path(folder), Permissions::from_mode(0o755)).unwrap();
    }
    let folders = vec![bench.path("none"), bench.path("one"), bench.path("two")];
    let directories = Directories::new(folders, Limits::default()).unwrap();
    let missing = directories.find("p").unwrap_err();
    assert!(missing.msg.contains("failed to find plugin \"p\""), "{missing}");
    write_script(&bench.path("two/p"), "true");
    std::fs::create_dir(bench.path("one/p")).unwrap();
    assert_eq!(directories.find("p").unwrap().path(), bench.path("two/p"));
    std::fs::remove_dir(bench.path("one/p")).unwrap();
    std::os::unix::fs::symlink(bench.path("two/p"), bench.path("one/p")).unwrap();
    assert_eq!(directories.find("p").unwrap().path(), bench.path("one/p"), "links are followed");
    for kind in ["", ".", "..", "../two/p", "/bin/sh"] {
        assert_eq!(directories.find(kind).unwrap_err().code, Error::INVALID_NETWORK_CONFIG, "{kind:?}");
    }
    for folder in ["relative", "/a:b"] {
        assert!(Directories::new(vec![folder.into()], Limits::default()).is_err(), "{folder}");
    }
}

#[test]
fn what_others_can_write_is_not_run() {
    let bench = Bench::new();
    let file = bench.script("p", "echo '{}'");
    let find = || bench.directories().find("p").map(|_| ());
    let mode = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    find().unwrap();
    for (path, good) in [(&file, 0o755), (&bench.bin(), 0o755)] {
        for bad in [0o775, 0o757, 0o777, 0o1777] {
            mode(path, bad);
            let error = find().unwrap_err();
            assert!(error.msg.contains("lets others write"), "{error}");
        }
        mode(path, good);
        find().unwrap();
    }
    // The folder a link leads to counts as well.
    std::fs::create_dir(bench.path("open")).unwrap();
    write_script(&bench.path("open/q"), "true");
    mode(&bench.path("open"), 0o777);
    std::os::unix::fs::symlink(bench.path("open/q"), bench.bin().join("q")).unwrap();
    assert!(bench.directories().find("q").unwrap_err().msg.contains("lets others write"));
    // Another user's, seen by root and by a user.
    for us in [0, 1000] {
        assert!(safe_for(us, &file, 0, 0o100_755).is_ok());
        assert!(safe_for(us, &file, us, 0o100_755).is_ok());
        assert!(safe_for(us, &file, 1001, 0o100_755).unwrap_err().msg.contains("belongs to user 1001"));
    }
}

#[test]
fn r20_versions_are_asked_once_until_the_file_changes() {
    let bench = Bench::new();
    let directories = bench.directories();
    let answer = r#"echo '{"cniVersion": "1.1.0", "supportedVersions": ["0.4.0", "1.1.0", "3.0.0"]}'"#;
    let file = bench.noting("p", answer);
    let asked = || directories.find("p").unwrap().versions().unwrap();
    assert_eq!(asked(), [Version::V0_4_0, Version::V1_1_0]);
    assert_eq!(asked(), [Version::V0_4_0, Version::V1_1_0]);
    assert_eq!(bench.order(), ["VERSION p"]);
    assert_eq!(bench.stdin("p", "VERSION")["cniVersion"], "1.1.0");
    bench.noting("p", "echo '{\"cniVersion\": \"0.2.0\"}'");
    let later = SystemTime::now() + Duration::from_secs(10);
    File::open(&file).unwrap().set_modified(later).unwrap();
    assert_eq!(asked(), [Version::V0_1_0, Version::V0_2_0]);
    assert_eq!(bench.order(), ["VERSION p", "VERSION p"]);
    bench.script("old", "echo '{\"code\": 4, \"msg\": \"unknown CNI_COMMAND: VERSION\"}'; exit 1");
    assert_eq!(directories.find("old").unwrap().versions().unwrap(), [Version::V0_1_0]);
    bench.script("bad", "echo '{}'");
    assert_eq!(directories.find("bad").unwrap().versions().unwrap_err().code, Error::DECODING_FAILURE);
}

#[test]
fn the_undo_of_an_add_is_called_as_del() {
    let bench = Bench::new();
    bench.noting("p", "");
    let (env, request) = (environment(&bench), request(Version::NEWEST, "p"));
    assert_eq!(env.command, Command::Add);
    let call = Call { env: &env, request: &request, netns: None, previous: None, leased: None };
    bench.directories().find("p").unwrap().del(&call, &mut View::new(&mut Nothing)).unwrap();
    assert_eq!(bench.order(), ["DEL p"]);
}
