//! The `tokens` room.

mod settings;

pub use settings::{
    AssertionAudience, ClientAuth, CredentialSettings, IssuerSettings, OauthSettings, Settings,
};
