//! What fuzz targets ask of this room, see `fuzz/`. It decides nothing itself.

use std::net::IpAddr;

/// Whether an address may be dialled.
#[must_use]
pub fn admitted(address: IpAddr, allow_private: bool) -> bool {
    super::address::admitted(address, allow_private)
}
