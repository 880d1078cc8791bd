//! One plain GET, as a kubelet's probe or a scraper does it.

use std::time::Duration;

use crate::blocking;
use crate::tls::install_crypto_provider;

/// A probe that waits longer would hide that something hangs.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Status and body of a URL.
pub(super) fn get(url: &str) -> anyhow::Result<(u16, String)> {
    install_crypto_provider();
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(TIMEOUT)
        .build()?;
    blocking::run(async {
        let response = client.get(url).send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    })
}
