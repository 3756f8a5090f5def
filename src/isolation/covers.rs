//! What the command must not see: folders and files that are covered, sockets that lead outside, and the resolver that it
//! finds instead of the system's.
//!
//! `/run` is covered as a whole, because that is where a user's own services listen (a session bus would start any program
//! outside). Other unix sockets are covered one by one, as the kernel lists them.
//!
//! A file that is replaced while it is covered loses its cover: the kernel takes the mount off with the old file. So the
//! covers are looked after, and put back.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind,
    mount_change, mount_remount, move_mount, open_tree,
};

use super::error::{CellError, Step as _};

/// Where services of the system and of users listen.
const RUN: &str = "/run";
/// Ours, inside the cover of [`RUN`].
const OWN: &str = "/run/.tokenward";
/// What stands in for a file.
const EMPTY: &str = "/run/.tokenward/empty";
const RESOLVER: &str = "/run/.tokenward/resolv.conf";
/// Whoever asks another resolver by its address reaches the same one: every address is the cell's own.
const RESOLVER_TEXT: &[u8] =
    b"# In here every name is answered by tokenward.\nnameserver 127.0.0.1\n";
/// Most covers. Each is a mount, and each is looked at several times a second.
const COVERS_MAX: usize = 2048;
/// Where sockets are usual, in folders of their own or without.
const USUAL: [&str; 2] = ["/tmp", "/var/tmp"];
/// Most folders of those that are looked into.
const FOLDERS_MAX: usize = 1024;
/// Where programs of some distributions are.
const PROGRAMS: [&str; 2] = ["/run/current-system", "/run/opengl-driver"];

/// The covers of a cell.
pub(super) struct Covers {
    paths: BTreeSet<PathBuf>,
    /// The device of [`EMPTY`].
    own: u64,
}

impl Covers {
    /// Covers everything, in the mount namespace of the calling process.
    ///
    /// # Errors
    /// [`CellError`]: something that is there could not be covered.
    pub(super) fn lay(
        hidden: BTreeSet<PathBuf>,
        kept: &[PathBuf],
        uid: u32,
    ) -> Result<Self, CellError> {
        if hidden.len() > COVERS_MAX {
            return Err(CellError::failed(
                "covering files and sockets",
                "there are more than 2048",
            ));
        }
        let all = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", all).building("taking the mounts apart from the system's")?;
        cover_run(kept, uid)?;
        let own = fs::metadata(EMPTY).step("covering /run")?.dev();
        let covers = Self { paths: hidden, own };
        covers.mend()?;
        resolver().step("placing resolv.conf")?;
        Ok(covers)
    }

    /// Covers what is not covered, or not any more.
    pub(super) fn mend(&self) -> Result<(), CellError> {
        for path in &self.paths {
            self.cover(path).map_err(|error| {
                // A path is no secret, and without it nobody can help.
                CellError::failed(&format!("covering {}", path.display()), error)
            })?;
        }
        Ok(())
    }

    fn cover(&self, path: &Path) -> io::Result<()> {
        let real = match fs::canonicalize(path) {
            // Nothing is there, or not even we can get there.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::PermissionDenied
                        | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(());
            }
            real => real?,
        };
        let found = fs::metadata(&real)?;
        if !found.is_dir() {
            if found.dev() != self.own {
                mount_bind(EMPTY, &real)?;
            }
            return Ok(());
        }
        if found.mode() & 0o7777 == 0 && fs::read_dir(&real).is_ok_and(|mut d| d.next().is_none()) {
            return Ok(());
        }
        let flags =
            MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
        mount(
            "tokenward",
            &real,
            "tmpfs",
            flags,
            Some(c"size=4k,nr_inodes=2,mode=0000"),
        )?;
        Ok(())
    }
}

/// Every unix socket with a path that can be found in the network and the files of the calling process, but for what is under
/// `/run` and not kept: those that the kernel lists, and whatever socket stands beside one of them or in a folder where they
/// are usual. The kernel knows the name under which one was bound, which is not always the one by which it is found: some
/// programs bind by a passing name, or by one from the folder they are in.
pub(super) fn sockets(kept: &[PathBuf], searched: &[PathBuf]) -> io::Result<BTreeSet<PathBuf>> {
    let list = fs::read_to_string("/proc/self/net/unix")?;
    let mut found = paths_of_sockets(&list, kept);
    let mut folders: BTreeSet<PathBuf> = found
        .iter()
        .filter_map(|p| p.parent())
        .map(Path::to_owned)
        .collect();
    folders.extend(searched.iter().cloned());
    folders.extend(kept.iter().filter(|path| is_under_run(path)).cloned());
    for place in USUAL {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        let inside = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.extend(inside.map(|entry| entry.path()).take(FOLDERS_MAX));
        folders.insert(place.into());
    }
    for folder in &folders {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let sockets = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
        found.extend(sockets.map(|entry| entry.path()));
    }
    Ok(found)
}

/// The eighth column of the kernel's list; names that begin with `@` are no files, and end with the network.
fn paths_of_sockets(list: &str, kept: &[PathBuf]) -> BTreeSet<PathBuf> {
    let path = |line: &str| {
        let at = line.find(" /")?;
        let path = Path::new(&line[at + 1..]);
        // The same folder by its older name.
        let below = path.strip_prefix("/var/run");
        Some(below.map_or_else(|_| path.to_owned(), |below| Path::new(RUN).join(below)))
    };
    let mut paths: BTreeSet<PathBuf> = list.lines().skip(1).filter_map(path).collect();
    paths.retain(|path| !is_under_run(path) || kept.iter().any(|kept| path.starts_with(kept)));
    paths
}

fn is_under_run(path: &Path) -> bool {
    path.starts_with(RUN) || path.starts_with("/var/run")
}

/// Makes files that the command may not change read-only, in the mount namespace of the calling process.
pub(super) fn fix(files: &[PathBuf]) -> Result<(), CellError> {
    for path in files {
        // What is hidden, or not there, cannot be written either.
        let Ok(real) = fs::canonicalize(path) else {
            continue;
        };
        let flags = MountFlags::BIND
            | MountFlags::RDONLY
            | MountFlags::NOSUID
            | MountFlags::NODEV
            | MountFlags::NOEXEC;
        let fixed = mount_bind(&real, &real).and_then(|()| mount_remount(&real, flags, c""));
        fixed.step(&format!("making {} read-only", path.display()))?;
    }
    Ok(())
}

fn cover_run(kept: &[PathBuf], uid: u32) -> Result<(), CellError> {
    let step = "covering /run";
    let mut moved = Vec::new();
    let programs = PROGRAMS.iter().map(PathBuf::from);
    for path in kept.iter().cloned().chain(programs) {
        let Ok(real) = fs::canonicalize(&path) else {
            continue;
        };
        if real.starts_with(RUN) && real != Path::new(RUN) {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE;
            moved.push((open_tree(CWD, &real, flags).step(step)?, real));
        }
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount(
        "tokenward",
        RUN,
        "tmpfs",
        flags,
        Some(c"size=64m,nr_inodes=4096,mode=0755"),
    )
    .building(step)?;
    let folder = |path: &Path, mode| {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path);
        made.step(step)
    };
    folder(Path::new(OWN), 0o755)?;
    folder(&Path::new(RUN).join(format!("user/{uid}")), 0o700)?;
    mount(
        "tokenward",
        OWN,
        "tmpfs",
        flags | MountFlags::NOEXEC,
        Some(c"size=64k,nr_inodes=8,mode=0755"),
    )
    .step(step)?;
    write(EMPTY, 0o000, b"").step(step)?;
    write(RESOLVER, 0o444, RESOLVER_TEXT).step(step)?;
    // What is bound from here on is read-only as well.
    let fixed = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOEXEC | flags;
    mount_remount(OWN, fixed, c"").step(step)?;
    for (tree, path) in moved {
        folder(&path, 0o755)?;
        let by_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(tree, "", CWD, &path, by_descriptor).step(step)?;
    }
    Ok(())
}

fn write(path: &str, mode: u32, text: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text)
}

/// Puts ours where `/etc/resolv.conf` leads. Without one, programs ask at 127.0.0.1 anyway.
fn resolver() -> io::Result<()> {
    let Ok(link) = fs::read_link("/etc/resolv.conf") else {
        if Path::new("/etc/resolv.conf").exists() {
            mount_bind(RESOLVER, "/etc/resolv.conf")?;
        }
        return Ok(());
    };
    let target = Path::new("/etc").join(link);
    match fs::canonicalize(&target) {
        Ok(real) => mount_bind(RESOLVER, &real)?,
        // It led to below /run.
        Err(_) => {
            if let (Some(folder), Some(name)) = (target.parent(), target.file_name()) {
                let under_run = folder.components().any(|part| part.as_os_str() == "run");
                if under_run && fs::create_dir_all(folder).is_ok() {
                    fs::write(fs::canonicalize(folder)?.join(name), RESOLVER_TEXT)?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_their_paths() {
        let list = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 14322 /tmp/ssh-a b/agent.1\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 20000\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 14323 @/tmp/.X11-unix/X0\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 14324 /run/user/1000/bus\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 14325 /var/run/docker.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 14326 relative\n";
        let found: Vec<_> = paths_of_sockets(list, &[]).into_iter().collect();
        assert_eq!(found, [PathBuf::from("/tmp/ssh-a b/agent.1")]);
        // What stays although it is under /run has its sockets covered.
        let kept = [PathBuf::from("/run/user/1000"), "/run/docker.sock".into()];
        let found: Vec<_> = paths_of_sockets(list, &kept).into_iter().collect();
        let expected = [
            "/run/docker.sock",
            "/run/user/1000/bus",
            "/tmp/ssh-a b/agent.1",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
    }

    #[test]
    fn sockets_are_found_beside_others_and_where_they_are_usual() {
        let dir = tempfile::TempDir::new_in("/tmp").unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let bound = std::os::unix::net::UnixListener::bind(root.join("passing")).unwrap();
        fs::rename(root.join("passing"), root.join("master")).unwrap();
        fs::create_dir(root.join("deep")).unwrap();
        let other = std::os::unix::net::UnixListener::bind(root.join("deep/other")).unwrap();
        fs::rename(root.join("deep/other"), root.join("deep/there")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        let found = sockets(&[], &[]).unwrap();
        assert!(found.contains(&root.join("master")) && !found.contains(&root.join("file")));
        assert!(found.contains(&root.join("deep/there")));
        drop((bound, other));
        let found = sockets(&[], &[root.join("deep")]).unwrap();
        assert!(found.contains(&root.join("deep/there")));
    }
}
