//! Files: modes, links, damage, races.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::super::{
    CaError, Permitted, Root, agent_dir, load_or_create_instance_key, write_trust_files,
};
use super::openssl;
use crate::vocab::{AgentName, Clock};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn saved(dir: &Path) -> Root {
    let root = Root::generate(&Clock::system(), &Permitted::Everything).unwrap();
    root.save(dir).unwrap();
    root
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_root_survives_a_restart() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("deep/ca");
    let root = saved(&dir);
    assert_eq!(names(&dir), ["ca.key", "ca.pem"]);
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("ca.key")), 0o600);
    assert_eq!(mode(&dir.join("ca.pem")), 0o644);
    let again = Root::load(&dir).unwrap();
    assert_eq!(again.certificate_der(), root.certificate_der());
    assert_eq!(again.not_after(), root.not_after());
    if let Some((good, text)) = openssl(&["pkey", "-in", "ca.key", "-noout", "-check"], &dir) {
        assert!(good, "{text}");
    }
}

#[test]
fn a_root_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let root = saved(dir.path());
    let other = Root::generate(&Clock::system(), &Permitted::Everything).unwrap();
    let refused = other.save(dir.path()).unwrap_err();
    assert_eq!(refused, CaError::Exists { file: "ca.pem" });
    fs::remove_file(dir.path().join("ca.pem")).unwrap();
    let refused = other.save(dir.path()).unwrap_err();
    assert_eq!(refused, CaError::Exists { file: "ca.key" });
    assert_eq!(names(dir.path()), ["ca.key"]);
    assert_eq!(
        Root::load_or_create(dir.path(), &Clock::system(), &Permitted::Everything).unwrap_err(),
        CaError::Missing { file: "ca.pem" }
    );
    fs::write(dir.path().join("ca.pem"), root.certificate_pem()).unwrap();
    assert!(Root::load(dir.path()).is_ok());
}

#[test]
fn a_key_that_others_may_touch_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    saved(dir.path());
    let key = dir.path().join("ca.key");
    for bad in [0o640, 0o604, 0o660, 0o666, 0o610] {
        chmod(&key, bad);
        let refused = Root::load(dir.path()).unwrap_err();
        let expected = CaError::Exposed {
            file: "ca.key",
            mode: bad,
        };
        assert_eq!(refused, expected);
        assert!(refused.to_string().contains("chmod 600"), "{refused}");
    }
    chmod(&key, 0o400);
    assert!(Root::load(dir.path()).is_ok());
}

#[test]
fn links_pipes_and_folders_are_not_files() {
    let place = tempfile::tempdir().unwrap();
    let real = place.path().join("real");
    saved(&real);
    for file in ["ca.key", "ca.pem"] {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ca.key", "ca.pem"] {
            fs::copy(real.join(name), dir.path().join(name)).unwrap();
        }
        let here = dir.path().join(file);
        fs::remove_file(&here).unwrap();
        symlink(real.join(file), &here).unwrap();
        assert_eq!(
            Root::load(dir.path()).unwrap_err(),
            CaError::NotRegular { file }
        );
        fs::remove_file(&here).unwrap();
        mknodat(CWD, &here, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!(
            Root::load(dir.path()).unwrap_err(),
            CaError::NotRegular { file }
        );
        fs::remove_file(&here).unwrap();
        fs::create_dir(&here).unwrap();
        assert_eq!(
            Root::load(dir.path()).unwrap_err(),
            CaError::NotRegular { file }
        );
    }
}

#[test]
fn writing_follows_no_link() {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let root = Root::generate(&Clock::system(), &Permitted::Everything).unwrap();

    // A dangling link would make a plain create write wherever it points.
    let ca = dir.path().join("ca");
    fs::create_dir(&ca).unwrap();
    symlink(dir.path().join("nowhere"), ca.join("ca.key")).unwrap();
    let refused = root.save(&ca).unwrap_err();
    assert_eq!(refused, CaError::Exists { file: "ca.key" });
    assert!(!dir.path().join("nowhere").exists());
    fs::remove_file(ca.join("ca.key")).unwrap();
    symlink(&victim, ca.join(".ca.key.new")).unwrap();
    root.save(&ca).unwrap();

    let run = dir.path().join("run");
    fs::create_dir(&run).unwrap();
    symlink(&victim, run.join("ca.pem")).unwrap();
    write_trust_files(&run, &root, None).unwrap();
    assert!(fs::symlink_metadata(run.join("ca.pem")).unwrap().is_file());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
}

#[test]
fn a_folder_that_anybody_may_write_to_holds_no_keys() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("ca");
    let root = saved(&dir);
    load_or_create_instance_key(&dir).unwrap();
    let refused = |dir: &Path| {
        let errors = [
            Root::load(dir).unwrap_err(),
            Root::load_or_create(dir, &Clock::system(), &Permitted::Everything).unwrap_err(),
            root.save(dir).unwrap_err(),
            load_or_create_instance_key(dir).unwrap_err(),
        ];
        assert!(errors.iter().all(|e| *e == errors[0]), "{errors:?}");
        errors[0].to_string()
    };
    chmod(&dir, 0o777);
    assert!(refused(&dir).contains("anybody"));
    assert!(
        write_trust_files(&dir, &root, None)
            .unwrap()
            .others_may_write
    );
    chmod(&dir, 0o700);
    assert!(
        !write_trust_files(&dir, &root, None)
            .unwrap()
            .others_may_write
    );

    let link = place.path().join("link");
    symlink(&dir, &link).unwrap();
    assert!(refused(&link).contains("symbolic link"));
    assert!(refused(&place.path().join("link/")).contains("symbolic link"));
    assert!(write_trust_files(&link, &root, None).is_err());
}

#[test]
fn keys_of_another_user_are_refused() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can give files away");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    saved(dir.path());
    let stranger = Some(4711);
    std::os::unix::fs::chown(dir.path().join("ca.key"), stranger, None).unwrap();
    assert_eq!(
        Root::load(dir.path()).unwrap_err(),
        CaError::Foreign { file: "ca.key" }
    );
    std::os::unix::fs::chown(dir.path(), stranger, None).unwrap();
    assert!(matches!(
        Root::load(dir.path()).unwrap_err(),
        CaError::Folder { .. }
    ));
}

#[test]
fn damage_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    saved(dir.path());
    let good_key = fs::read(dir.path().join("ca.key")).unwrap();
    let good_pem = fs::read(dir.path().join("ca.pem")).unwrap();
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    let huge = vec![b'x'; 100_000];
    for (file, bytes) in [
        ("ca.key", Vec::new()),
        ("ca.key", half(&good_key)),
        ("ca.key", good_pem.clone()),
        ("ca.key", huge.clone()),
        ("ca.key", vec![0xff; 100]),
        ("ca.pem", Vec::new()),
        ("ca.pem", half(&good_pem)),
        ("ca.pem", good_key.clone()),
        ("ca.pem", huge),
        (
            "ca.pem",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec(),
        ),
    ] {
        fs::write(dir.path().join("ca.key"), &good_key).unwrap();
        fs::write(dir.path().join("ca.pem"), &good_pem).unwrap();
        fs::write(dir.path().join(file), &bytes).unwrap();
        let error = Root::load(dir.path()).unwrap_err();
        assert!(
            matches!(error, CaError::Corrupt { file: f, .. } if f == file),
            "{file}: {error:?}"
        );
        assert!(error.to_string().starts_with(file) && !error.to_string().contains('\n'));
        assert_eq!(
            Root::load_or_create(dir.path(), &Clock::system(), &Permitted::Everything).unwrap_err(),
            error
        );
    }
    fs::write(dir.path().join("ca.pem"), &good_pem).unwrap();
    let stranger = tempfile::tempdir().unwrap();
    saved(stranger.path());
    fs::copy(stranger.path().join("ca.key"), dir.path().join("ca.key")).unwrap();
    assert_eq!(Root::load(dir.path()).unwrap_err(), CaError::Mismatch);
}

#[test]
fn an_absent_root_is_missing_and_then_made_once() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("ca");
    assert_eq!(
        Root::load(&dir).unwrap_err(),
        CaError::Missing { file: "ca.key" }
    );
    let made: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let root = Root::load_or_create(&dir, &Clock::system(), &Permitted::Everything)
                        .unwrap();
                    let key = load_or_create_instance_key(&dir).unwrap();
                    (root.certificate_pem(), key.expose().clone())
                })
            })
            .collect();
        starts.into_iter().map(|s| s.join().unwrap()).collect()
    });
    assert!(made.iter().all(|one| *one == made[0]));
    assert_eq!(names(&dir), ["ca.key", "ca.pem", "instance.key"]);
}

#[test]
fn the_instance_key_is_kept_and_guarded() {
    let dir = tempfile::tempdir().unwrap();
    let key = load_or_create_instance_key(dir.path()).unwrap();
    let path = dir.path().join("instance.key");
    assert_eq!(key.expose().len(), 32);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(&fs::read(&path).unwrap(), key.expose());
    let again = load_or_create_instance_key(dir.path()).unwrap();
    assert_eq!(again.expose(), key.expose());

    chmod(&path, 0o640);
    assert!(matches!(
        load_or_create_instance_key(dir.path()).unwrap_err(),
        CaError::Exposed { mode: 0o640, .. }
    ));
    chmod(&path, 0o600);
    for damaged in [&b""[..], &[7; 31], &[7; 33]] {
        fs::write(&path, damaged).unwrap();
        assert!(matches!(
            load_or_create_instance_key(dir.path()).unwrap_err(),
            CaError::Corrupt {
                file: "instance.key",
                ..
            }
        ));
    }
    fs::remove_file(&path).unwrap();
    symlink(dir.path().join("elsewhere"), &path).unwrap();
    assert!(matches!(
        load_or_create_instance_key(dir.path()).unwrap_err(),
        CaError::NotRegular { .. }
    ));
}

#[test]
fn trust_files_hold_certificates_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let run = place.path().join("run");
    let root = Root::generate(&Clock::system(), &Permitted::Everything).unwrap();
    let theirs = Root::generate(&Clock::system(), &Permitted::Everything).unwrap();
    let system = place.path().join("system.pem");
    // Ours is there as well, as after an installation by hand, between comments as distributions have them.
    let text = format!(
        "# a comment\n{}\nRoot X\n======\n{}",
        theirs.certificate_pem(),
        root.certificate_pem()
    );
    fs::write(&system, text).unwrap();

    for _ in 0..2 {
        let files = write_trust_files(&run, &root, Some(&system)).unwrap();
        assert_eq!(files.system_roots, 1);
        for file in [&files.ca, &files.bundle, &files.java, &files.wget] {
            assert_eq!(mode(file), 0o644);
        }
        assert_eq!(mode(&run), 0o755);
        assert_eq!(names(&run), ["bundle.pem", "ca.pem", "trust.p12", "wgetrc"]);
        let read = |path: &Path| {
            CertificateDer::pem_slice_iter(&fs::read(path).unwrap())
                .map(Result::unwrap)
                .collect::<Vec<_>>()
        };
        assert_eq!(read(&files.ca), [root.certificate_der().clone()]);
        assert_eq!(
            read(&files.bundle),
            [
                theirs.certificate_der().clone(),
                root.certificate_der().clone()
            ]
        );
        assert!(
            !fs::read_to_string(&files.bundle)
                .unwrap()
                .contains("comment")
        );
        let java = fs::read(&files.java).unwrap();
        for certificate in [theirs.certificate_der(), root.certificate_der()] {
            let held = |part: &[u8]| part == certificate.as_ref();
            assert!(java.windows(certificate.len()).any(held));
        }
        assert_eq!(
            fs::read_to_string(&files.wget).unwrap(),
            format!("ca_certificate = {}\n", files.bundle.display())
        );
    }

    let alone = write_trust_files(&run, &root, None).unwrap();
    assert_eq!(alone.system_roots, 0);
    let absent = write_trust_files(&run, &root, Some(&place.path().join("absent")));
    assert!(matches!(absent.unwrap_err(), CaError::Io { .. }));
}

#[test]
fn an_agents_folder_is_its_own() {
    let place = tempfile::tempdir().unwrap();
    let run = place.path().join("run");
    let coder = AgentName::new("coder").unwrap();
    let dir = agent_dir(&run, &coder).unwrap();
    assert_eq!(dir, run.join("agents/coder"));
    assert_eq!((mode(&run), mode(&run.join("agents"))), (0o755, 0o755));
    assert_eq!(mode(&dir), 0o700);
    chmod(&dir, 0o755);
    assert_eq!(mode(&agent_dir(&run, &coder).unwrap()), 0o700);

    let elsewhere = place.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    chmod(&elsewhere, 0o755);
    symlink(&elsewhere, run.join("agents/mallory")).unwrap();
    assert!(agent_dir(&run, &AgentName::new("mallory").unwrap()).is_err());
    assert_eq!(mode(&elsewhere), 0o755);
}
