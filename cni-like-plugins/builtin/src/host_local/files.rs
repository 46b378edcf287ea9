//! The reservations of a network on disk, in the reference's format: a file for each address, holding
//! `container CR LF ifname`, `last_reserved_ip.N` for each set of ranges, and `lock`. Either program may work on a
//! folder after the other.
//!
//! Finding the address of an attachment means reading every file, as the reference does. So a folder of our own,
//! `.rnet/BOOT`, has a symbolic link to the address file for each attachment, under a hash. It is complete as long as
//! the last reservation is the one we saw: a reservation of the reference changes `last_reserved_ip.N`, and then the
//! folder is read once. Links of an earlier boot name addresses whose containers are gone: a network namespace does not
//! survive a reboot.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use rnet_plugin_protocol::{AttachmentId, Error};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

/// Identity of this boot, the same in every namespace.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// In an index: when its boot began.
pub(super) const BEGAN: &str = "began";
/// After so many addresses in a row that are taken, the folder is read once instead.
const PATIENCE: usize = 64;

/// The folder of a network, locked.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    index: PathBuf,
    /// The index names every reservation. On a full disk it may not.
    complete: bool,
    /// Held until the value is dropped.
    _lock: File,
}

/// What an address file says.
fn owner_text(owner: &AttachmentId) -> String {
    format!("{}\r\n{}", owner.container, owner.ifname)
}

fn parse_owner(text: &str) -> AttachmentId {
    let (container, ifname) = text.trim().split_once("\r\n").unwrap_or_else(|| (text.trim(), ""));
    AttachmentId { container: container.trim().to_owned(), ifname: ifname.trim().to_owned() }
}

/// Name of an attachment's links, less their number.
pub(super) fn link_name(owner: &AttachmentId) -> String {
    let hash = Sha256::digest(owner_text(owner).as_bytes());
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn fault<'a>(what: &'a str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |e| Error::io(format!("host-local: {what} {}", path.display()), &e)
}

/// Absence is no failure.
fn absent_ok(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Files {
    /// Locks the folder of a network below `data`, made if it is not there, and puts its index in order.
    pub(super) fn open(data: &Path, network: &str) -> Result<Self, Error> {
        let folder = data.join(network);
        DirBuilder::new().recursive(true).mode(0o755).create(&folder).map_err(fault("make", &folder))?;
        Files::locked(folder)
    }

    /// The same, `None` when the network never had a reservation.
    pub(super) fn existing(data: &Path, network: &str) -> Result<Option<Self>, Error> {
        let folder = data.join(network);
        if folder.is_dir() { Files::locked(folder).map(Some) } else { Ok(None) }
    }

    fn locked(folder: PathBuf) -> Result<Self, Error> {
        let path = folder.join("lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o750).open(&path);
        let lock = lock.map_err(fault("open", &path))?;
        rustix::io::retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive))
            .map_err(|e| fault("lock", &path)(e.into()))?;
        let boot = fs::read_to_string(BOOT_ID).map_err(fault("read", Path::new(BOOT_ID)))?;
        let index = folder.join(".rnet").join(boot.trim());
        let mut files = Files { folder, index, complete: true, _lock: lock };
        if !files.index.is_dir() {
            files.first_of_this_boot()?;
        } else if files.seen() != Some(files.stamp()) {
            files.read_all()?;
        }
        Ok(files)
    }

    /// Frees what was reserved before the reboot, and indexes what others reserved since.
    fn first_of_this_boot(&mut self) -> Result<(), Error> {
        let parent = self.folder.join(".rnet");
        for boot in entries(&parent)? {
            let old = parent.join(boot);
            if !earlier(&old) {
                continue;
            }
            for link in entries(&old)? {
                let path = old.join(&link);
                let Ok(target) = fs::read_link(&path) else { continue };
                let Some(ip) = target.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok()) else {
                    continue;
                };
                // Somebody else may have it by now.
                if self.owner(ip).is_some_and(|owner| link.starts_with(&link_name(&owner))) {
                    self.remove(ip)?;
                }
            }
            fs::remove_dir_all(&old).map_err(fault("remove", &old))?;
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.index);
        // Nothing new can be reserved without it, and what is there can be freed.
        self.complete = made.is_ok();
        if let Some(began) = boot_time() {
            let _ = fs::write(self.index.join(BEGAN), began.to_string());
        }
        self.read_all()
    }

    /// Makes the links that are missing.
    fn read_all(&mut self) -> Result<(), Error> {
        for (ip, owner) in self.all()? {
            if !self.links(&owner).contains(&ip) {
                self.complete &= self.link(&owner, ip).is_ok();
            }
        }
        if self.complete {
            // Without it all is read once more the next time.
            let _ = self.set_seen();
        }
        Ok(())
    }

    /// What tells whether somebody else reserved something: the last reservations, with the time of each.
    fn stamp(&self) -> String {
        let mut stamp = String::new();
        for set in 0.. {
            let path = self.last_path(set);
            let (Ok(meta), Ok(text)) = (fs::metadata(&path), fs::read_to_string(&path)) else { break };
            stamp += &format!("{set} {} {}.{} {}\n", meta.ino(), meta.mtime(), meta.mtime_nsec(), text.trim());
        }
        stamp
    }

    fn seen(&self) -> Option<String> {
        fs::read_to_string(self.index.join("seen")).ok()
    }

    fn set_seen(&self) -> Result<(), Error> {
        self.overwrite(&self.index.join("seen"), &self.stamp())
    }

    /// Writes over what is there. No rename, which makes ext4 write to the disk at once: what these files hold is taken
    /// for nothing when it makes no sense.
    fn overwrite(&self, path: &Path, contents: &str) -> Result<(), Error> {
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
            file.write_all(contents.as_bytes())?;
            if file.metadata()?.len() > contents.len() as u64 {
                file.set_len(contents.len() as u64)?;
            }
            Ok(())
        };
        write().map_err(fault("write", path))
    }

    fn last_path(&self, set: usize) -> PathBuf {
        self.folder.join(format!("last_reserved_ip.{set}"))
    }

    /// The last address taken of a set of ranges.
    pub(super) fn last(&self, set: usize) -> Option<IpAddr> {
        fs::read_to_string(self.last_path(set)).ok()?.trim().parse().ok()
    }

    /// Who an address belongs to.
    pub(super) fn owner(&self, ip: IpAddr) -> Option<AttachmentId> {
        fs::read_to_string(self.folder.join(ip.to_string())).ok().map(|text| parse_owner(&text))
    }

    /// The addresses of an attachment, by its links.
    pub(super) fn of(&self, owner: &AttachmentId) -> Vec<IpAddr> {
        if !self.complete {
            let all = self.all().unwrap_or_default();
            return all.into_iter().filter(|(_, of)| of == owner).map(|(ip, _)| ip).collect();
        }
        self.links(owner).into_iter().filter(|ip| self.owner(*ip).as_ref() == Some(owner)).collect()
    }

    /// Where the links point, whether or not there is anything.
    fn links(&self, owner: &AttachmentId) -> Vec<IpAddr> {
        let name = link_name(owner);
        let target = |n: usize| fs::read_link(self.index.join(format!("{name}.{n}"))).ok();
        let address = |path: PathBuf| path.file_name()?.to_str()?.parse().ok();
        (0..).map_while(target).filter_map(address).collect()
    }

    fn link(&self, owner: &AttachmentId, ip: IpAddr) -> Result<(), Error> {
        let path = self.index.join(format!("{}.{}", link_name(owner), self.links(owner).len()));
        symlink(Path::new("../..").join(ip.to_string()), &path).map_err(fault("make", &path))
    }

    /// Takes the first free of `candidates`; `None` when all are taken.
    pub(super) fn reserve(
        &self,
        owner: &AttachmentId,
        set: usize,
        candidates: impl Iterator<Item = IpAddr>,
    ) -> Result<Option<IpAddr>, Error> {
        let contents = self.index.join("reservation");
        // Not over what is there: after a crash it may be the file of an address under a second name.
        absent_ok(fs::remove_file(&contents)).map_err(fault("remove", &contents))?;
        self.overwrite(&contents, &owner_text(owner))?;
        let mut taken: Option<BTreeSet<IpAddr>> = None;
        for (tried, ip) in candidates.enumerate() {
            if tried == PATIENCE {
                taken = Some(self.addresses()?);
            }
            if taken.as_ref().is_some_and(|t| t.contains(&ip)) {
                continue;
            }
            let path = self.folder.join(ip.to_string());
            if taken.is_none() && path.exists() {
                continue;
            }
            // The link comes first: cut off between the two, it points nowhere. The address appears with its owner in it.
            self.link(owner, ip)?;
            match fs::hard_link(&contents, &path) {
                Ok(()) => {
                    // The next one gets a file of its own.
                    fs::remove_file(&contents).map_err(fault("remove", &contents))?;
                    if let Err(error) = self.overwrite(&self.last_path(set), &ip.to_string()) {
                        self.release_one(owner, ip)?;
                        return Err(error);
                    }
                    let _ = self.set_seen();
                    return Ok(Some(ip));
                }
                Err(e) => {
                    self.unlink(owner);
                    if e.kind() != ErrorKind::AlreadyExists {
                        return Err(fault("reserve", &path)(e));
                    }
                }
            }
        }
        absent_ok(fs::remove_file(&contents)).map_err(fault("remove", &contents))?;
        Ok(None)
    }

    /// Removes the last link of an attachment.
    fn unlink(&self, owner: &AttachmentId) {
        let name = link_name(owner);
        if let Some(last) = self.links(owner).len().checked_sub(1) {
            // One that stays points nowhere.
            let _ = fs::remove_file(self.index.join(format!("{name}.{last}")));
        }
    }

    /// Frees the addresses of an attachment. None is success. Files of old versions have no interface name.
    pub(super) fn release(&self, owner: &AttachmentId) -> Result<(), Error> {
        let bare = AttachmentId { container: owner.container.clone(), ifname: String::new() };
        let mine = self.of(owner);
        let (owner, addresses) = if mine.is_empty() { (&bare, self.of(&bare)) } else { (owner, mine) };
        for ip in addresses {
            self.remove(ip)?;
        }
        while !self.links(owner).is_empty() {
            self.unlink(owner);
        }
        Ok(())
    }

    /// Frees one address of an attachment.
    pub(super) fn release_one(&self, owner: &AttachmentId, ip: IpAddr) -> Result<(), Error> {
        if self.owner(ip).as_ref() == Some(owner) {
            self.remove(ip)?;
            self.unlink(owner);
        }
        Ok(())
    }

    fn remove(&self, ip: IpAddr) -> Result<(), Error> {
        let path = self.folder.join(ip.to_string());
        absent_ok(fs::remove_file(&path)).map_err(fault("remove", &path))
    }

    /// All reserved addresses, without reading the files.
    pub(super) fn addresses(&self) -> Result<BTreeSet<IpAddr>, Error> {
        Ok(entries(&self.folder)?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// All reservations.
    pub(super) fn all(&self) -> Result<Vec<(IpAddr, AttachmentId)>, Error> {
        Ok(self.addresses()?.into_iter().filter_map(|ip| Some((ip, self.owner(ip)?))).collect())
    }
}

/// When this boot began, in seconds since 1970, as exactly as the clock was set (btime of proc_stat(5)).
fn boot_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// Whether an index is surely of an earlier boot. A container may have been given a boot id of its own, while it shares
/// the folder and the kernel with us.
fn earlier(index: &Path) -> bool {
    const DIFFERENT: u64 = 60;
    let began = fs::read_to_string(index.join(BEGAN)).ok().and_then(|text| text.trim().parse::<u64>().ok());
    began.zip(boot_time()).is_some_and(|(theirs, ours)| theirs.abs_diff(ours) > DIFFERENT)
}

/// Names in a folder; none if it is not there.
fn entries(folder: &Path) -> Result<Vec<String>, Error> {
    let list = match fs::read_dir(folder) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        other => other.map_err(fault("read", folder))?,
    };
    Ok(list.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}
