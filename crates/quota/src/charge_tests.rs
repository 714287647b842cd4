use super::*;
use crate::amounts::to_json;
use kybern_apimachinery::json;

fn quota(name: &str, hard: Value, used: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
}

fn pod(cpu: &str) -> Value {
    json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

struct Case<'a> {
    quotas: &'a [Value],
    object: Value,
    old: Option<Value>,
    subresource: &'a str,
    limited: &'a [Limited],
}

impl Case<'_> {
    fn charge(&self) -> Result<Vec<Option<Value>>, Refusal> {
        let quotas: Vec<&Value> = self.quotas.iter().collect();
        let request = Request {
            evaluator: &Evaluator::Pods,
            group: "",
            resource: "pods",
            subresource: self.subresource,
            object: &self.object,
            old: self.old.as_ref(),
            now: Timestamp::UNIX_EPOCH,
        };
        Ok(charge(&quotas, &request, self.limited)?.into_iter().map(|after| after.as_ref().map(to_json)).collect())
    }
}

fn case<'a>(quotas: &'a [Value], object: Value) -> Case<'a> {
    Case { quotas, object, old: None, subresource: "", limited: &[] }
}

fn forbidden<T>(text: &str) -> Result<T, Refusal> {
    Err(Refusal::Forbidden(text.to_owned()))
}

#[test]
fn what_is_used_is_added() {
    let quotas = [
        quota("a", json!({"pods": "2", "requests.cpu": "1"}), json!({"pods": "1", "requests.cpu": "500m"})),
        quota("other", json!({"services": "1"}), json!({"services": "1"})),
    ];
    let after = case(&quotas, pod("400m")).charge().unwrap();
    assert_eq!(after, [Some(json!({"pods": "2", "requests.cpu": "900m"})), None]);
    assert_eq!(
        case(&quotas, pod("600m")).charge(),
        forbidden("exceeded quota: a, requested: requests.cpu=600m, used: requests.cpu=500m, limited: requests.cpu=1")
    );
    let full = [quota("a", json!({"pods": "1", "cpu": "1"}), json!({"pods": "1", "cpu": "1"}))];
    assert_eq!(
        case(&full, pod("1")).charge(),
        forbidden("exceeded quota: a, requested: cpu=1,pods=1, used: cpu=1,pods=1, limited: cpu=1,pods=1")
    );
}

#[test]
fn what_is_not_known_is_refused() {
    let quotas = [quota("a", json!({"pods": "2", "limits.cpu": "1"}), json!({"pods": "1"}))];
    assert_eq!(case(&quotas, pod("1")).charge(), forbidden("failed quota: a: must specify limits.cpu for: c"));
    let quotas = [quota("a", json!({"pods": "2", "requests.cpu": "1"}), json!({"pods": "1"}))];
    assert_eq!(
        case(&quotas, pod("1")).charge(),
        forbidden("status unknown for quota: a, resources: pods,requests.cpu")
    );
    let fresh = [json!({"metadata": {"name": "a"}, "spec": {"hard": {"pods": "0"}}})];
    assert_eq!(case(&fresh, pod("1")).charge(), Ok(vec![None]), "its controller has not been there yet");
    let quotas = [quota("a", json!({"requests.cpu": "1"}), json!({"requests.cpu": "0"}))];
    let below = "quota usage is negative for resource(s): cpu,requests.cpu";
    assert_eq!(case(&quotas, pod("-1")).charge(), forbidden(below));
}

#[test]
fn an_update_is_charged_for_what_it_adds() {
    let quotas = [quota("a", json!({"requests.cpu": "2"}), json!({"requests.cpu": "1"}))];
    let resized =
        |cpu: &str, subresource| Case { old: Some(pod("1")), subresource, ..case(&quotas, pod(cpu)) }.charge();
    assert_eq!(resized("1500m", "resize"), Ok(vec![Some(json!({"requests.cpu": "1500m"}))]));
    assert_eq!(resized("500m", "resize"), Ok(vec![None]), "the controller gives it back");
    let text = "exceeded quota: a, requested: requests.cpu=2, used: requests.cpu=1, limited: requests.cpu=2";
    assert_eq!(resized("3", "resize"), forbidden(text));
    assert_eq!(resized("3", "status"), Ok(vec![Some(json!({"requests.cpu": "3"}))]), "what is so, is so");

    let mut ending = quota("ending", json!({"pods": "1"}), json!({"pods": "0"}));
    ending["spec"]["scopes"] = json!(["Terminating"]);
    let mut object = pod("1");
    object["spec"]["activeDeadlineSeconds"] = 5.into();
    let moved = Case { old: Some(pod("1")), ..case(std::slice::from_ref(&ending), object) };
    assert_eq!(moved.charge(), Ok(vec![Some(json!({"pods": "1"}))]), "it is new in the scope");
}

#[test]
fn some_things_need_a_quota() {
    let limited = [Limited { resource: "pods".into(), contains: vec!["requests.cpu".into()], ..Limited::default() }];
    let covered = [quota("a", json!({"requests.cpu": "2"}), json!({"requests.cpu": "1"}))];
    let with = |quotas, limited, object| Case { limited, ..case(quotas, object) }.charge();
    assert_eq!(with(&[], &limited, pod("1")), forbidden("insufficient quota to consume: requests.cpu"));
    assert_eq!(with(&covered, &limited, pod("1")), Ok(vec![Some(json!({"requests.cpu": "2"}))]));
    let elsewhere = [Limited { group: "apps".into(), ..limited[0].clone() }];
    assert_eq!(with(&[], &elsewhere, pod("1")), Ok(vec![]));

    let scope = Scope { name: "PriorityClass".into(), operator: "In".into(), values: vec!["cluster-services".into()] };
    let limited = [Limited { resource: "pods".into(), scopes: vec![scope], ..Limited::default() }];
    let mut important = pod("1");
    important["spec"]["priorityClassName"] = "cluster-services".into();
    let text = "insufficient quota to match these scopes: [{PriorityClass In [cluster-services]}]";
    assert_eq!(with(&[], &limited, important.clone()), Err(Refusal::Fault(text.to_owned())));
    assert_eq!(with(&[], &limited, pod("1")), Ok(vec![]));
    let mut covering = covered.clone();
    covering[0]["spec"]["scopeSelector"] =
        json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": "Exists"}]});
    assert_eq!(with(&covering, &limited, important), Ok(vec![Some(json!({"requests.cpu": "2"}))]));
}
