//! The kubelet: a state machine per pod, driven by events.
