//! Paths that belong to no group version: the lists of versions and groups, the server's version, the keys of tokens.
//!
//! Logs are none of them: upstream serves those only with `--enable-logs-handler`, and we never do.

use super::routes::{Model, Route, camel, capital};
use crate::resources::Selection;

/// Every such page, by the name of its document in v3: `apis/apps`.
pub(super) fn all(served: &Selection) -> Vec<(String, Route)> {
    let mut pages = vec![
        page(
            "api",
            ("get available API versions", "getCoreAPIVersions", "core"),
            Model::named("meta.v1.APIVersions"),
        ),
        page(
            "apis",
            ("get available API versions", "getAPIVersions", "apis"),
            Model::named("meta.v1.APIGroupList"),
        ),
    ];
    for (group, _) in served.groups().into_iter().filter(|(group, _)| !group.is_empty()) {
        let name = camel(group);
        let id = format!("get{}APIGroup", capital(&name));
        let document = format!("apis/{group}");
        let words = ("get information of a group", id.as_str(), name.as_str());
        pages.push(page(&document, words, Model::named("meta.v1.APIGroup")));
    }
    const JSON: &[&str] = &["application/json"];
    let version = page(
        "version",
        ("get the version information for this server", "getCodeVersion", "version"),
        Model::named("pkg.version.Info"),
    );
    pages.push((version.0, Route { consumes: JSON, produces: JSON, ..version.1 }));
    let configuration = page(
        ".well-known/openid-configuration",
        (
            "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
            "getServiceAccountIssuerOpenIDConfiguration",
            "WellKnown",
        ),
        Model::Text,
    );
    pages.push((configuration.0, Route { consumes: &[], produces: JSON, ..configuration.1 }));
    let keys = page(
        "openid/v1/jwks",
        (
            "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
            "getServiceAccountIssuerOpenIDKeyset",
            "openid",
        ),
        Model::Text,
    );
    pages.push((keys.0, Route { consumes: &[], produces: &["application/jwk-set+json"], ..keys.1 }));
    pages
}

fn page(document: &str, (description, id, tag): (&str, &str, &str), model: Model) -> (String, Route) {
    let route = Route::read(format!("/{document}/"), description, id.to_owned(), tag, model);
    (document.to_owned(), route)
}
