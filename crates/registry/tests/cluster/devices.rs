//! Classes of devices and claims for them.

use http::Method;
use kybern_apimachinery::json;

use crate::harness::Cluster;

#[tokio::test]
async fn selectors_are_compiled_when_they_are_written() {
    let cluster = Cluster::start().await;
    let classes = "/apis/resource.k8s.io/v1/deviceclasses";
    let class = |expression: &str| json!({"metadata": {"name": "c"}, "spec": {"selectors": [{"cel": {"expression": expression}}]}});
    let dry = format!("{classes}?dryRun=All");
    for fine in [
        "device.driver == 'dra.example.com'",
        "device.attributes['dra.example.com'].healthy",
        "device.attributes['dra.example.com'].model == 'a' && \
         device.capacity['dra.example.com'].memory.compareTo(quantity('1Gi')) >= 0",
        "cel.bind(dra, device.attributes['dra.example.com'], dra.one && dra.two)",
        "device.attributes['dra.example.com'].version.isGreaterThan(semver('1.0.0'))",
        "device.allowMultipleAllocations == true",
    ] {
        let (code, answer) = cluster.ask(Method::POST, &dry, Some(class(fine))).await;
        assert_eq!(code, 201, "{fine}: {answer}");
    }
    let costly = "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, \
                  device.attributes.all(d, device.attributes.all(e, a + b + c + d + e != '')))))";
    for (expression, said) in [
        ("device.driver", "must evaluate to bool or the unknown type, not string"),
        (
            "device.nope == 1",
            "compilation failed: ERROR: <input>:1:7: undefined field 'nope'\n | device.nope == 1\n | ......^",
        ),
        ("cel.bind('x', 1, true)", "cel.bind() variable names must be simple identifiers"),
        (costly, "spec.selectors[0].cel.expression: Forbidden: too complex, exceeds cost limit"),
    ] {
        let message = cluster.refusal(Method::POST, &dry, Some(class(expression)), 422).await;
        assert!(message.contains(said), "{expression}: {message}");
    }
    let claim = json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": [
        {"name": "r", "exactly": {"deviceClassName": "c", "selectors": [{"cel": {"expression": "device.nope"}}]}},
    ]}}});
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    let message = cluster.refusal(Method::POST, claims, Some(claim), 422).await;
    assert!(message.contains("undefined field 'nope'"), "{message}");
}
