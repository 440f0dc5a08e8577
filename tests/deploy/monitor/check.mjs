// Checks a ServiceMonitor, in JSON on standard input, by the schema of the Prometheus Operator.
import { readFileSync } from "node:fs";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";

const document = JSON.parse(readFileSync(0, "utf8"));
if (!ServiceMonitor.is(document)) throw new Error(`not a ServiceMonitor: ${document.apiVersion} ${document.kind}`);
new ServiceMonitor(document).validate();
