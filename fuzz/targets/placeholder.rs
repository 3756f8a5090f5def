//! Whatever shape an operator gives, a placeholder is one word that its owner alone is found by. Input: a shape.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenward::credential::{InstanceKey, Placeholders, Shape, derive};
use tokenward::vocab::{AgentName, Secret, ServiceName};

fuzz_target!(|text: &str| {
    let Ok(shape) = Shape::parse(text) else {
        return;
    };
    let key = InstanceKey::new(&Secret::new(vec![7; 32]));
    let names = |name: &str| {
        (
            AgentName::new(name).expect("a name"),
            ServiceName::new(name).expect("a name"),
        )
    };
    let ((agent, service), (other, _)) = (names("a"), names("b"));
    let made = derive(&key, &agent, &service, &shape);
    assert!(
        !made.is_empty() && made.bytes().all(|b| (0x21..0x7f).contains(&b)),
        "{made:?}"
    );
    assert_eq!(made, derive(&key, &agent, &service, &shape));
    assert_ne!(made, derive(&key, &other, &service, &shape));
    let all = Placeholders::new(
        &key,
        [(&agent, &service, &shape), (&other, &service, &shape)],
    );
    assert_eq!(all.owner(&made), Some((&agent, &service)));
});
