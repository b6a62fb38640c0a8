//! Objects of any kind, as JSON: read, applied by server-side apply, listed, deleted. Which objects, and in which
//! order, the caller says.

use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::ApiResource;
use serde_json::Value;

use crate::connect::Cluster;

/// A kind of objects, as the API server addresses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    /// Whether its objects lie in namespaces.
    pub namespaced: bool,
}

/// Why an API server did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error("the object is of no kind that is known here")]
    UnknownKind,
    #[error("the object is not what the API server expects")]
    Form(#[source] serde_json::Error),
    /// A kind, or a namespace, that this cluster does not have.
    #[error("not found: {0}")]
    NotFound(String),
    /// Another manager's fields, and who that is.
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    Refused(String),
    #[error("the API server cannot be asked")]
    Ask(#[source] Box<kube::Error>),
}

impl From<kube::Error> for ObjectError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                401 | 403 => Self::Forbidden(status.message),
                404 => Self::NotFound(status.message),
                409 => Self::Conflict(status.message),
                _ => Self::Refused(status.message),
            },
            other => Self::Ask(Box::new(other)),
        }
    }
}

impl Kind {
    fn resource(self) -> ApiResource {
        let api_version = match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        };
        ApiResource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            api_version,
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }

    fn api(self, cluster: &Cluster, namespace: &str) -> Api<DynamicObject> {
        let (client, resource) = (cluster.client.clone(), self.resource());
        match self.namespaced {
            true => Api::namespaced_with(client, namespace, &resource),
            false => Api::all_with(client, &resource),
        }
    }
}

fn json(object: &DynamicObject) -> Result<Value, ObjectError> {
    serde_json::to_value(object).map_err(ObjectError::Form)
}

impl Cluster {
    /// The object, or `None`; also where its kind is unknown to the cluster.
    pub async fn get(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, ObjectError> {
        let found = kind.api(self, namespace).get_opt(name).await?;
        found.as_ref().map(json).transpose()
    }

    /// Server-side apply in the name of `manager`, never over fields of other managers. Fields that the kind does not
    /// have are refused. Returns the object as it is now; with `dry_run` as it would be.
    pub async fn apply(
        &self,
        kind: Kind,
        object: &Value,
        manager: &str,
        dry_run: bool,
    ) -> Result<Value, ObjectError> {
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
        let params = PatchParams {
            dry_run,
            ..PatchParams::apply(manager).validation_strict()
        };
        let api = kind.api(self, text("namespace"));
        let applied = api
            .patch(text("name"), &params, &Patch::Apply(object))
            .await?;
        json(&applied)
    }

    /// Objects with these labels; none where the cluster does not have the kind.
    pub async fn list(
        &self,
        kind: Kind,
        namespace: &str,
        labels: &str,
    ) -> Result<Vec<Value>, ObjectError> {
        let params = ListParams::default().labels(labels);
        match kind.api(self, namespace).list(&params).await {
            Ok(list) => {
                let resource = kind.resource();
                let objects = list.items.iter().map(|object| {
                    let mut object = json(object)?;
                    // Items of a list do not repeat what they are.
                    object["apiVersion"] = resource.api_version.clone().into();
                    object["kind"] = resource.kind.clone().into();
                    Ok(object)
                });
                objects.collect()
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes it and, before it is gone, what belongs to it. False: it was not there.
    pub async fn delete(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<bool, ObjectError> {
        let api = kind.api(self, namespace);
        match api.delete(name, &DeleteParams::foreground()).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
