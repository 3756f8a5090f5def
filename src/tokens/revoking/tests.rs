//! Issuers that hang: what they hold up, and what is told of it.

use super::*;
use crate::tokens::issuer::tests::{Bench, Notebook};
use crate::vocab::{AgentName, Secret, ServiceName, WallTime};

struct Told {
    notes: Arc<Notebook>,
    journal: Arc<dyn Journal>,
    clock: Clock,
}

fn told() -> Told {
    let notes = Arc::new(Notebook::default());
    Told {
        journal: Arc::<Notebook>::clone(&notes),
        notes,
        clock: Clock::manual(WallTime(1_700_000_000_000)),
    }
}

/// A client whose issuer answers after so long.
fn client(url: &str, delay: Duration) -> Arc<Client> {
    let bench = Bench::new(|oauth| {
        let mut issuer = (*oauth.issuer).clone();
        url.clone_into(&mut issuer.url);
        oauth.issuer = Arc::new(issuer);
    });
    if let Ok((_, document)) = &mut *bench.fake.metadata.lock().unwrap() {
        document["issuer"] = serde_json::json!(url);
        document["token_endpoint"] = serde_json::json!(format!("{url}/token"));
        document["revocation_endpoint"] = serde_json::json!(format!("{url}/revoke"));
    }
    *bench.fake.delay.lock().unwrap() = delay;
    Arc::new(bench.client)
}

fn begin(
    revoking: &mut Revoking,
    told: &Told,
    client: &Arc<Client>,
    agent: &str,
) -> watch::Receiver<Fates> {
    let grant = GrantId {
        service: ServiceName::new("items").unwrap(),
        agent: AgentName::new(agent).unwrap(),
    };
    let tokens = vec![(Spent::Refresh(Secret::new("rt".into())), None)];
    let whose = (Arc::clone(client), grant);
    revoking.begin(whose, tokens, &told.journal, &told.clock)
}

#[tokio::test]
async fn what_is_cut_off_at_the_end_is_told_as_unconfirmed() {
    let (told, mut revoking) = (told(), Revoking::default());
    let hangs = client("https://as.test", Duration::from_mins(1));
    begin(&mut revoking, &told, &hangs, "coder");
    let ended = tokio::time::timeout(Duration::from_millis(20), revoking.end()).await;
    assert!(ended.is_err());
    assert_eq!(told.notes.count("Revoked"), 0);
    revoking.cut().await;
    assert_eq!(told.notes.count("Revoked"), 1);
    let notes = told.notes.0.lock().unwrap();
    assert!(
        notes.iter().any(|note| note.contains("confirmed: false")),
        "{notes:?}"
    );
}

#[tokio::test]
async fn an_issuer_that_hangs_holds_up_no_other() {
    let (told, mut revoking) = (told(), Revoking::default());
    let hangs = client("https://hangs.test", Duration::from_mins(1));
    let healthy = client("https://as.test", Duration::ZERO);
    for number in 0..2 * AT_ONCE {
        begin(&mut revoking, &told, &hangs, &format!("a{number}"));
    }
    let mut fates = begin(&mut revoking, &told, &healthy, "coder");
    let confirmed = fates.wait_for(|fates| fates[0].1 == Fate::Confirmed);
    let confirmed = tokio::time::timeout(Duration::from_secs(5), confirmed).await;
    drop(confirmed.unwrap().unwrap());
    revoking.cut().await;
    assert_eq!(told.notes.count("Revoked"), 2 * AT_ONCE + 1);
}
