//! Kubernetes v1.37 as data: resources, types, codecs, defaults, patches, tables, OpenAPI.
