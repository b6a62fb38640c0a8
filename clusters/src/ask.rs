//! One read: GET or LIST with a deadline, whose refusal names what a role has to grant.

use std::fmt::Debug;

use k8s_openapi::serde::de::DeserializeOwned;
use kube::api::{Api, ListParams};
use tokio::time::{Instant, timeout_at};
use verify::control::view::{Seen, Unread};

/// Objects of one kind beyond which a list is not read on: memory is bounded.
const MOST_OBJECTS: usize = 50_000;

const PAGE: u32 = 500;

/// When reading has to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(pub(crate) Instant);

impl Deadline {
    /// What `read` gives, if it does so in time; `Ok(None)` for what does not exist.
    pub(crate) async fn get<T>(
        self,
        resource: &str,
        read: impl Future<Output = kube::Result<T>>,
    ) -> Seen<Option<T>> {
        match timeout_at(self.0, read).await {
            Ok(Ok(value)) => Ok(Some(value)),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(None),
            Ok(Err(error)) => Err(refusal("get", resource, &error)),
            Err(_) => Err(late()),
        }
    }

    /// Every object of `api`, page by page; `Ok(None)` for a kind that does not exist.
    pub(crate) async fn list<K>(self, resource: &str, api: &Api<K>) -> Seen<Option<Vec<K>>>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        self.list_of(resource, api, ListParams::default()).await
    }

    /// The same of what `params` select.
    pub(crate) async fn list_of<K>(
        self,
        resource: &str,
        api: &Api<K>,
        params: ListParams,
    ) -> Seen<Option<Vec<K>>>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        let mut all = Vec::new();
        let mut params = params.limit(PAGE);
        loop {
            let page = match timeout_at(self.0, api.list(&params)).await {
                Ok(Ok(page)) => page,
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Ok(None),
                Ok(Err(error)) => return Err(refusal("list", resource, &error)),
                Err(_) => return Err(late()),
            };
            all.extend(page.items);
            if all.len() > MOST_OBJECTS {
                return Err(Unread::Failed(format!(
                    "more than {MOST_OBJECTS} {resource}"
                )));
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(Some(all)),
            }
        }
    }
}

fn late() -> Unread {
    Unread::Failed("the API server did not answer everything in time".to_owned())
}

pub(crate) fn refusal(verb: &str, resource: &str, error: &kube::Error) -> Unread {
    tracing::info!(verb, resource, %error, "read failed");
    match error {
        kube::Error::Api(status) if status.code == 403 => Unread::Forbidden {
            verb: verb.to_owned(),
            resource: resource.to_owned(),
        },
        kube::Error::Api(status) if status.code == 401 => Unread::Failed(
            "the API server does not accept the credentials of the context".to_owned(),
        ),
        kube::Error::Api(status) => {
            Unread::Failed(format!("{verb} {resource} failed with {}", status.code))
        }
        _ => Unread::Failed(format!("{verb} {resource} failed")),
    }
}
