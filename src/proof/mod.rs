//! STUB, replaced by the proof branch.
#![allow(missing_docs)]
use crate::vocab::{Authority, RequestPath};
pub trait Signer: Send + Sync {
    fn thumbprint(&self) -> &str;
    fn proof(&self, claims: &ProofClaims<'_>) -> Result<Proof, ProofError>;
}
pub struct ProofClaims<'a> {
    pub htm: &'a str,
    pub htu: &'a str,
    pub iat: i64,
    pub jti: &'a Jti,
    pub ath: Option<&'a str>,
    pub nonce: Option<&'a Nonce>,
}
#[derive(Debug, Clone)]
pub struct Jti(String);
impl Jti {
    pub fn from_random(_b: [u8; 16]) -> Self {
        Self(String::new())
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nonce(String);
impl Nonce {
    pub fn parse(t: &str) -> Option<Self> {
        Some(Self(t.into()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
pub struct Proof(String);
impl Proof {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct ProofError;
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HtuProfile {
    #[default]
    AsSent,
    DecodeUnreserved,
    PercentDecoded,
    StripPrefix(String),
}
pub fn htu(_a: &Authority, _p: &RequestPath, _f: &HtuProfile) -> String {
    String::new()
}
pub fn ath(_t: &str) -> String {
    String::new()
}
pub struct Challenge {
    pub scheme: String,
    pub params: Vec<(String, String)>,
}
impl Challenge {
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }
}
pub fn parse_challenges<'a>(_v: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    Vec::new()
}
