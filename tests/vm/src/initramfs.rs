//! The initramfs: busybox, the modules that reach the machine's file system, and the script that makes it the root.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// Modules without which there is no root and no port, and tun, whose device file nobody makes here. All others are loaded
/// on demand from the root.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_console", "virtiofs", "overlay", "tun"];

/// First program of the guest. Replaced are `@DIRS@`, `@MODULES@` and `@AGENT@`.
const INIT: &str = r#"#!/bin/busybox sh
set -e
/bin/busybox mkdir -p /bin /dev /machine /proc /root /sys /tmpfs
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
mount -t tmpfs -o mode=755 tmpfs /tmpfs
mkdir /tmpfs/upper /tmpfs/work
mount -t virtiofs -o ro machine /machine
mount -t overlay -o lowerdir=/machine,upperdir=/tmpfs/upper,workdir=/tmpfs/work root /root
cd /root
mkdir -p dev lib/modules proc run sys tmp
mount --move /dev dev
mount -t proc proc proc
mount -t sysfs sys sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mkdir -p dev/pts dev/shm
ln -s /proc/self/fd dev/fd
for number in 0:stdin 1:stdout 2:stderr; do ln -s fd/${number%:*} dev/${number#*:}; done
mount -t devpts -o mode=620,ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mount --bind "/machine@MODULES@" lib/modules
@DIRS@
echo '+cpu +memory +pids' >sys/fs/cgroup/cgroup.subtree_control
echo rnet-vm >proc/sys/kernel/hostname
ip link set lo up
# The shell stays as process 1: it collects what other processes leave behind.
exec switch_root /root /bin/sh -c '
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
"@AGENT@" agent
echo "the agent ended with $?"
echo b >/proc/sysrq-trigger
'
"#;

/// What the guest is to have besides the machine's root.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    /// The unpacked kernel package, with `lib/modules` and its `modules.dep`.
    pub(crate) kernel: &'a Path,
    /// Version of the kernel.
    pub(crate) version: &'a str,
    /// The program that serves in the guest.
    pub(crate) agent: &'a Path,
    /// Directories that have to be seen under their path even below /tmp or on another file system.
    pub(crate) dirs: &'a [PathBuf],
}

/// Writes the archive.
pub(crate) fn write(to: &Path, contents: &Contents<'_>) -> anyhow::Result<()> {
    let mut archive = Archive::default();
    archive.dir("bin");
    archive.file("bin/busybox", &read(&busybox()?)?);
    archive.dir("modules");
    for (number, module) in modules(contents)?.iter().enumerate() {
        archive.file(&format!("modules/{number:02}"), &read(module)?);
    }
    archive.file("init", init(contents)?.as_bytes());
    let bytes = archive.finish();
    std::fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))
}

fn init(contents: &Contents<'_>) -> anyhow::Result<String> {
    let text = |path: &Path| {
        let text = path.to_str().filter(|t| !t.contains(['"', '\'', '$', '`', '\\', '\n']));
        text.map(str::to_owned).with_context(|| format!("{} cannot be named in a script", path.display()))
    };
    let mut dirs = String::new();
    for dir in contents.dirs {
        let dir = text(dir)?;
        dirs.push_str(&format!("mkdir -p \"/root{dir}\"\nmount --bind \"/machine{dir}\" \"/root{dir}\"\n"));
    }
    let modules = text(&contents.kernel.join("lib/modules"))?;
    let init = INIT.replace("@DIRS@", &dirs).replace("@MODULES@", &modules);
    Ok(init.replace("@AGENT@", &text(contents.agent)?))
}

fn busybox() -> anyhow::Result<PathBuf> {
    let found = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from).into_iter().find(|p| p.exists());
    found.context("no busybox (package busybox-static)")
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Files of the modules, each after those it needs.
fn modules(contents: &Contents<'_>) -> anyhow::Result<Vec<PathBuf>> {
    let mut modprobe = Command::new("modprobe");
    modprobe.env("PATH", crate::guest::path()).args(["--all", "--show-depends", "--set-version", contents.version]);
    let output = modprobe.arg("--dirname").arg(contents.kernel).args(MODULES).output();
    let output = output.context("cannot run modprobe (package kmod)")?;
    if !output.status.success() {
        bail!("modprobe does not know {MODULES:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let mut files: Vec<PathBuf> = Vec::new();
    for file in said.lines().filter_map(|l| l.trim().strip_prefix("insmod ")).map(PathBuf::from) {
        if !files.contains(&file) {
            files.push(file);
        }
    }
    Ok(files)
}

/// A cpio archive in the "newc" form, as in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: usize,
}

impl Archive {
    fn dir(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, data: &[u8]) {
        self.entry(name, 0o100_755, data);
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.entries += 1;
        let (inode, links, size, name_size) = (self.entries, 1, data.len(), name.len() + 1);
        // Magic, inode, mode, uid, gid, links, mtime, size, device (2), special device (2), length of the name, no checksum.
        let numbers = format!("070701{inode:08x}{mode:08x}{0:08x}{0:08x}{links:08x}{0:08x}{size:08x}", 0);
        let numbers = format!("{numbers}{0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}", 0);
        self.bytes.extend_from_slice(numbers.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_padded_names_and_data() {
        let mut archive = Archive::default();
        archive.file("a", b"hello");
        let bytes = archive.finish();
        let text = String::from_utf8(bytes[..120].to_vec()).unwrap();
        assert_eq!(&text[..14], "07070100000001");
        assert_eq!(&text[14..22], "000081ed");
        assert_eq!(&text[54..62], "00000005");
        assert_eq!(&text[94..102], "00000002");
        assert_eq!(&text[110..120], "a\0hello\0\0\0");
        assert!(bytes[120..].starts_with(b"070701"));
        assert!(bytes[120..].windows(10).any(|w| w == b"TRAILER!!!"));
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn a_path_that_a_script_would_read_otherwise_is_refused() {
        let dirs = [PathBuf::from("/home/$(reboot)")];
        let (kernel, agent) = (Path::new("/k"), Path::new("/a"));
        let contents = Contents { kernel, version: "1", agent, dirs: &dirs };
        assert!(init(&contents).unwrap_err().to_string().contains("cannot be named"));
        let init = init(&Contents { dirs: &[], ..contents }).unwrap();
        assert!(init.contains("\"/machine/k/lib/modules\"") && init.contains("\"/a\" agent"), "{init}");
        assert!(!init.contains('@'), "{init}");
    }
}
