//! The wire contract of the agents: protobuf, client, server and conversion to observations.
