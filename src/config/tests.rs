//! Whole files: one that works, many that do not, and some that want to do harm.

mod broken;
mod hostile;
mod secrets;
mod works;

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::{Environment, Plan, Problems, SecretReading, load_in};

/// A value that must never be seen again.
const CANARY: &str = "canary-8841-Zq";

/// A directory with a configuration file and what it refers to.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap();
        let issuer = Issuer::from_params(&params, &key);
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["leaf.test".to_owned()])
            .unwrap()
            .signed_by(&leaf_key, &issuer)
            .unwrap();
        let place = Self { dir };
        place.write("internal-ca.pem", ca.pem());
        place.write("ca-key.pem", key.serialize_pem());
        place.write("leaf.pem", leaf.pem());
        place.write("client.pem", leaf_key.serialize_pem());
        place.write("empty", "\n");
        place.write("not-pem", CANARY);
        place
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path().join(name), content).unwrap();
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn load_as(&self, yaml: impl AsRef<[u8]>, reading: SecretReading) -> Result<Plan, Problems> {
        self.write("tokenward.yaml", yaml);
        load_in(&self.path().join("tokenward.yaml"), reading, &variables())
    }

    fn load(&self, yaml: impl AsRef<[u8]>) -> Result<Plan, Problems> {
        self.load_as(yaml, SecretReading::Resolve)
    }
}

fn variables() -> Environment {
    Environment::of([
        ("CODER_TOKEN", "coder-token-0123456789"),
        ("OTHER_TOKEN", "other-token-0123456789"),
        ("LLM_KEY", CANARY),
        ("TWO_LINES", "canary-8841-Zq\ncanary-8841-Zq"),
        ("EMPTY", ""),
    ])
}

/// Why a file is refused; checks what every refusal must keep.
fn problems(yaml: impl AsRef<[u8]>) -> Problems {
    let Err(problems) = Place::new().load(yaml) else {
        panic!("the file was accepted")
    };
    let shown = problems.to_string();
    assert!(!shown.contains("8841"), "a value was repeated: {shown}");
    assert!(shown.lines().count() == problems.iter().count(), "{shown}");
    for problem in problems.iter() {
        let prefix = format!("{}:{}: {}: ", problem.file, problem.line, problem.key);
        assert!(problem.to_string().starts_with(&prefix), "{problem}");
        assert!(problem.line >= 1 && problem.column >= 1, "{problem}");
        assert!(!problem.what.contains("; "), "{problem}");
    }
    problems
}
