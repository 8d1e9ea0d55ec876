//! Watches accounts and token Secrets.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use podium_client::{Change, Informer, ObjectKey, WorkQueue, is_conflict, is_not_found};
use podium_pki::token::Keys;

use super::decide::{Decision, account_of, decide, filled, without_reference};
use crate::context::{Context, Error};
use crate::owner;

/// Index of token Secrets by the key of their account.
const BY_ACCOUNT: &str = "controllers/tokenAccount";

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let Some(keys) = context.settings.token_keys.clone() else {
        // Upstream's does the same without `--service-account-private-key-file`.
        tracing::info!("service account tokens are not made: there is no key to sign them with");
        context.shutdown.cancelled().await;
        return;
    };
    let secrets = context.informers.of::<Secret>();
    let accounts = context.informers.of::<ServiceAccount>();
    secrets
        .add_index(BY_ACCOUNT, |secret| account_key(secret).map(|key| key.to_string()).into_iter().collect());
    let queue = WorkQueue::new("serviceaccount_tokens_secret");
    let to = queue.clone();
    secrets.on_event(move |change| {
        if account_of(change.object()).is_some() {
            to.add(ObjectKey::of(change.object().as_ref()));
        }
    });
    let (to, of) = (queue.clone(), secrets.clone());
    accounts.on_event(move |change| {
        let key = ObjectKey::of(change.object().as_ref()).to_string();
        of.keys_by_index(BY_ACCOUNT, &key).into_iter().for_each(|key| to.add(key));
        // References to Secrets that went while nobody looked.
        if let Change::Added(account) = change {
            let namespace = owner::namespace(&account.metadata);
            let names = account.secrets.iter().flatten().filter_map(|it| it.name.as_deref());
            names.for_each(|name| to.add(ObjectKey::new(namespace, name)));
        }
    });
    context.ready([secrets.synced().boxed(), accounts.synced().boxed()]).await;
    let controller = Arc::new(Controller { context: context.clone(), secrets, accounts, keys });
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

fn account_key(secret: &Secret) -> Option<ObjectKey> {
    account_of(secret).map(|(name, _)| ObjectKey::new(owner::namespace(&secret.metadata), name))
}

struct Controller {
    context: Context,
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
    keys: Arc<Keys>,
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(secret) = controller.secrets.get(&key) else { return controller.forget(&key).await };
    let Some(account_key) = account_key(&secret) else { return Ok(()) };
    let mut account = controller.accounts.get(&account_key);
    let root_ca = &controller.context.settings.root_ca_pem;
    let mut decision = decide(&secret, account.as_deref(), root_ca);
    if decision == Decision::Delete {
        // The cache may lag behind an account that was just made.
        let live = controller.accounts_of(&key).get_opt(&account_key.name).await;
        account = live.map_err(Error::call("get service account", account_key.to_string()))?.map(Arc::new);
        decision = decide(&secret, account.as_deref(), root_ca);
    }
    let api: Api<Secret> = Api::namespaced(controller.context.client.clone(), &key.namespace);
    let answer = match (decision, account) {
        (Decision::Keep, _) => return Ok(()),
        (Decision::Fill { claims }, Some(account)) => {
            let sign = |claims| controller.keys.sign(&claims).map(|token| token.expose().to_owned());
            let token = claims.map(sign).transpose();
            let token =
                token.map_err(|error| Error::Unusable { object: key.to_string(), why: error.to_string() })?;
            // With the cached version: if it is not the newest, the news is on its way.
            api.replace(&key.name, &PostParams::default(), &filled(&secret, &account, root_ca, token))
                .await
                .map(drop)
        }
        (Decision::Delete | Decision::Fill { .. }, _) => {
            let preconditions = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
            api.delete(&key.name, &DeleteParams::default().preconditions(preconditions)).await.map(drop)
        }
    };
    match answer {
        Ok(()) => Ok(()),
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        Err(error) => Err(Error::call("write token", key.to_string())(error)),
    }
}

impl Controller {
    fn accounts_of(&self, key: &ObjectKey) -> Api<ServiceAccount> {
        Api::namespaced(self.context.client.clone(), &key.namespace)
    }

    /// Takes a Secret that is gone off the accounts that list it.
    async fn forget(&self, secret: &ObjectKey) -> Result<(), Error> {
        for account in self.accounts.list_namespace(&secret.namespace) {
            if without_reference(&account, &secret.name).is_none() {
                continue;
            }
            let name = owner::name(&account.metadata);
            let api = self.accounts_of(secret);
            let live = api.get_opt(name).await.map_err(Error::call("get service account", name))?;
            let Some(updated) = live.and_then(|live| without_reference(&live, &secret.name)) else {
                continue;
            };
            match api.replace(name, &PostParams::default(), &updated).await {
                Ok(_) => {}
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(Error::call("update service account", name)(error)),
            }
        }
        Ok(())
    }
}
