use super::*;

#[test]
fn faults_are_counted_down_by_service_and_path() {
    let controls = Controls::default();
    controls.fail_path(Service::Api, "/v1/items", 2, Failure::Hang);
    controls.fail(Service::Api, 1, Failure::DropBeforeAnswer);
    assert_eq!(controls.failure_for(Service::Issuer, "/v1/items"), None);
    let due = |path| controls.failure_for(Service::Api, path);
    assert_eq!(due("/v1/items/1"), Some(Failure::Hang));
    assert_eq!(due("/v1/echo"), Some(Failure::DropBeforeAnswer));
    assert_eq!(due("/v1/echo"), None);
    assert_eq!(due("/v1/items"), Some(Failure::Hang));
    assert_eq!(due("/v1/items"), None);
}

#[test]
fn a_reset_forgets_everything() {
    let controls = Controls::default();
    controls.issuer(|i| i.token_type = Some("Bearer".into()));
    controls.site(Service::Api, |s| s.alpn = Alpn::H1);
    controls.reset();
    assert_eq!(controls.issuer_now().token_type, None);
    assert_eq!(controls.site_now(Service::Api).alpn, Alpn::Both);
}
