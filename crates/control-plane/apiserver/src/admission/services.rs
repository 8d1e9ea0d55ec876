//! DenyServiceExternalIPs, on unless the administrator allows them: any user who may make a Service could otherwise take
//! over the traffic to any address (CVE-2020-8554).

use podium_api::status::ApiError;

use super::Request;
use crate::objects::items;

pub(super) fn check_external_ips(request: &Request<'_>, allowed: bool) -> Result<(), ApiError> {
    if allowed || !request.is("", "services") {
        return Ok(());
    }
    let known = request.old.map(|old| items(old, "/spec/externalIPs")).unwrap_or_default();
    if items(request.object, "/spec/externalIPs").iter().all(|address| known.contains(address)) {
        return Ok(());
    }
    Err(request.forbidden("Use of external IPs is denied by admission control"))
}
