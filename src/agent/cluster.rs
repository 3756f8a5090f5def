//! The keys that a cluster has published for the tokens of its service accounts: a JWK set (RFC 7517), as the API server has
//! it at `/openid/v1/jwks`.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED,
    EcdsaVerificationAlgorithm, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use super::Unauthenticated;

/// Most keys of a cluster; while it rotates it has two.
const KEYS_MAX: usize = 64;
/// Longest name of a key, in bytes.
const KID_MAX: usize = 256;
/// Bytes of an RSA modulus: 2048 to 8192 bits.
const RSA_MIN: usize = 256;
const RSA_MAX: usize = 1024;

/// Why a set of keys cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// Not a JWK set, or a key with broken members.
    #[error("not a JWK set, or one with a broken key")]
    Malformed,
    /// None of its keys is an RSA or EC key for signatures that has a name.
    #[error("it holds no RSA or EC key with a `kid` for signatures")]
    None,
    /// A member of a private or symmetric key.
    #[error("it holds a private key, which nobody may have published")]
    Private,
    /// More than can be meant.
    #[error("it holds more than 64 keys")]
    TooMany,
    /// Two keys with one name.
    #[error("two of its keys have the same `kid`")]
    Twice,
    /// RSA below 2048 bits, above 8192, or with an exponent that signs nothing.
    #[error("an RSA key of it is too weak, or larger than 8192 bits")]
    Weak,
}

/// Public keys by their names.
#[derive(Clone, Default)]
pub struct ClusterKeys(BTreeMap<String, Key>);

impl ClusterKeys {
    /// Whether every key of the others is here, and the same.
    #[must_use]
    pub fn have_all_of(&self, others: &Self) -> bool {
        let mut others = others.0.iter();
        others.all(|(name, key)| self.0.get(name).is_some_and(|own| own.is(key)))
    }
}

#[derive(Clone)]
struct Key {
    /// The one algorithm that it is for, where the set says so.
    alg: Option<String>,
    material: Material,
}

impl Key {
    /// Whether both verify the same signatures.
    fn is(&self, other: &Self) -> bool {
        let same = match (&self.material, &other.material) {
            (Material::Curve(curve, _, point), Material::Curve(other, _, with)) => {
                curve == other && point == with
            }
            (Material::Rsa(one), Material::Rsa(other)) => one.n == other.n && one.e == other.e,
            _ => false,
        };
        same && self.alg == other.alg
    }
}

#[derive(Clone)]
enum Material {
    /// The curve's algorithm, its name, and the point.
    Curve(&'static str, &'static EcdsaVerificationAlgorithm, Vec<u8>),
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

/// The members that are looked at; others are ignored, repeated ones refused.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    #[serde(default, deserialize_with = "present")]
    d: bool,
    #[serde(default, deserialize_with = "present")]
    p: bool,
    #[serde(default, deserialize_with = "present")]
    k: bool,
}

impl ClusterKeys {
    /// Reads a JWK set. Keys of other kinds, for encryption or without a name are passed over.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn parse(text: &[u8]) -> Result<Self, KeysError> {
        let set: Set = serde_json::from_slice(text).map_err(|_| KeysError::Malformed)?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeysError::TooMany);
        }
        let mut keys = BTreeMap::new();
        for jwk in set.keys {
            // RFC 7518 §6.2.2, §6.3.2 and §6.4.1.
            if jwk.d || jwk.p || jwk.k {
                return Err(KeysError::Private);
            }
            if jwk
                .purpose
                .as_deref()
                .is_some_and(|purpose| purpose != "sig")
            {
                continue;
            }
            let Some(material) = material(&jwk)? else {
                continue;
            };
            let Some(kid) = jwk.kid else { continue };
            if kid.is_empty() || kid.len() > KID_MAX {
                return Err(KeysError::Malformed);
            }
            let key = Key {
                alg: jwk.alg,
                material,
            };
            if keys.insert(kid, key).is_some() {
                return Err(KeysError::Twice);
            }
        }
        if keys.is_empty() {
            return Err(KeysError::None);
        }
        Ok(Self(keys))
    }

    /// Checks a signature with the key of this name. Which algorithms a key is good for follows from the key, never from
    /// the token alone (RFC 8725 §3.1).
    pub(super) fn verify(
        &self,
        (alg, kid): (&str, &str),
        input: &[u8],
        signature: &[u8],
    ) -> Result<(), Unauthenticated> {
        let rsa = rsa_algorithm(alg);
        if rsa.is_none() && curve_of(alg).is_none() {
            return Err(Unauthenticated::Algorithm);
        }
        let key = self.0.get(kid).ok_or(Unauthenticated::UnknownKey)?;
        if key.alg.as_deref().is_some_and(|only| only != alg) {
            return Err(Unauthenticated::Algorithm);
        }
        let verified = match (&key.material, rsa) {
            (Material::Rsa(key), Some(algorithm)) => key.verify(algorithm, input, signature),
            (Material::Curve(of, algorithm, point), None) if *of == alg => {
                UnparsedPublicKey::new(*algorithm, point).verify(input, signature)
            }
            _ => return Err(Unauthenticated::Algorithm),
        };
        verified.map_err(|_| Unauthenticated::Forged)
    }
}

/// RFC 7518 §3.3.
fn rsa_algorithm(alg: &str) -> Option<&'static RsaParameters> {
    match alg {
        "RS256" => Some(&RSA_PKCS1_2048_8192_SHA256),
        "RS384" => Some(&RSA_PKCS1_2048_8192_SHA384),
        "RS512" => Some(&RSA_PKCS1_2048_8192_SHA512),
        _ => None,
    }
}

/// RFC 7518 §3.4: each curve has one algorithm. Its name, itself, and the bytes of a coordinate.
type Curve = (
    &'static str,
    &'static str,
    &'static EcdsaVerificationAlgorithm,
    usize,
);
static CURVES: [Curve; 3] = [
    ("P-256", "ES256", &ECDSA_P256_SHA256_FIXED, 32),
    ("P-384", "ES384", &ECDSA_P384_SHA384_FIXED, 48),
    ("P-521", "ES512", &ECDSA_P521_SHA512_FIXED, 66),
];

fn curve_of(alg: &str) -> Option<&'static Curve> {
    CURVES.iter().find(|curve| curve.1 == alg)
}

/// `None`: a key of a kind that signs no tokens of ours.
fn material(jwk: &Jwk) -> Result<Option<Material>, KeysError> {
    match jwk.kty.as_str() {
        "RSA" => rsa(jwk).map(Some),
        "EC" => {
            let curve = jwk.crv.as_deref();
            let curve = CURVES.iter().find(|(name, ..)| Some(*name) == curve);
            curve.map(|curve| point(jwk, curve)).transpose()
        }
        _ => Ok(None),
    }
}

fn rsa(jwk: &Jwk) -> Result<Material, KeysError> {
    let (n, e) = (number(jwk.n.as_deref())?, number(jwk.e.as_deref())?);
    // With an exponent of one anybody could write the signature down; an even one belongs to no key.
    let exponent = e.len() <= 8 && e.last().is_some_and(|last| last % 2 == 1) && e != [1];
    if !exponent || !(RSA_MIN..=RSA_MAX).contains(&n.len()) {
        return Err(KeysError::Weak);
    }
    Ok(Material::Rsa(RsaPublicKeyComponents { n, e }))
}

/// An unsigned number without leading zeros (RFC 7518 §2).
fn number(text: Option<&str>) -> Result<Vec<u8>, KeysError> {
    let bytes = text.and_then(base64url).ok_or(KeysError::Malformed)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Ok(bytes[zeros..].to_vec())
}

fn point(jwk: &Jwk, curve: &Curve) -> Result<Material, KeysError> {
    let (_, name, algorithm, width) = *curve;
    let mut point = vec![0x04];
    for coordinate in [&jwk.x, &jwk.y] {
        let bytes = coordinate.as_deref().and_then(base64url);
        let bytes = bytes.filter(|bytes| bytes.len() == width);
        point.extend(bytes.ok_or(KeysError::Malformed)?);
    }
    // A point that is not on its curve is found now.
    ParsedPublicKey::new(algorithm, &point).map_err(|_| KeysError::Malformed)?;
    Ok(Material::Curve(name, algorithm, point))
}

/// base64url without padding (RFC 7515 §2).
pub(super) fn base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Whether a member is there, be it null.
pub(super) fn present<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

#[cfg(test)]
mod tests;
