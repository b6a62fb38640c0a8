//! The JSON envelope of `aggrik8s verify -o json` and its schema.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::verdict::{Cause, Check, Confidence, LinkRow, Outcome, Unreachable, Verdict};
use crate::waivers::WaiverRow;

/// Additive changes only within a version.
pub const SCHEMA_VERSION: u32 = 1;

/// A verdict with what only the caller knows: when, by which program, on whose command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub schema_version: u32,
    pub tool: Tool,
    pub command: String,
    pub mesh: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    pub duration_seconds: f64,
    pub result: Outcome,
    pub exit_code: u8,
    pub confidence: Confidence,
    pub links: Vec<LinkRow>,
    pub checks: Vec<Check>,
    pub causes: Vec<Cause>,
    pub unreachable: Vec<Unreachable>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waivers: Vec<WaiverRow>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    pub name: String,
    pub version: String,
    pub commit: Option<String>,
}

/// What only the caller knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Occasion {
    pub tool: Tool,
    pub command: String,
    pub mesh: String,
    pub started_at: String,
    pub duration_seconds: f64,
}

impl Report {
    pub fn new(verdict: Verdict, occasion: Occasion) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            tool: occasion.tool,
            command: occasion.command,
            mesh: occasion.mesh,
            started_at: occasion.started_at,
            duration_seconds: occasion.duration_seconds,
            result: verdict.result,
            exit_code: verdict.result.exit_code(),
            confidence: verdict.confidence,
            links: verdict.links,
            checks: verdict.checks,
            causes: verdict.causes,
            unreachable: verdict.unreachable,
            waivers: verdict.waivers,
        }
    }

    /// JSON Schema of the report: schema/verify.schema.json.
    pub fn schema() -> schemars::Schema {
        schemars::schema_for!(Report)
    }
}
