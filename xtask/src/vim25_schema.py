"""Print, as JSON, what pyvmomi knows of the vim25 types named on standard input.

Input: {"types": [NAME...], "managed": {NAME: [METHOD...]}}.  Output: {"data": [...], "enums": [...], "managed": [...]}.
Bases, enums, and the types of the methods' parameters and results come along by themselves; a field whose type is
none of these is listed with its name only (kind "opaque"), so that a reader of the wire still knows its place.
"""
import json
import sys

from pyVmomi import VmomiSupport as vs
from pyVmomi import vim, vmodl  # noqa: F401  (registers the lazy types)

XSD = {"str": "string", "bool": "boolean", "byte": "byte", "short": "short", "int": "int", "long": "long",
       "float": "float", "double": "double", "datetime": "dateTime", "binary": "base64Binary", "URI": "anyURI",
       "type": "string", "ManagedMethod": "string", "PropertyPath": "string"}


def find(name):
    for ns in ("urn:vim25", vs.XMLNS_VMODL_BASE):
        try:
            return vs.GetWsdlType(ns, name)
        except KeyError:
            continue
    raise SystemExit(f"no vim25 type {name}")


def wsdl(t):
    return vs.GetWsdlName(t)


def is_data(t):
    return issubclass(t, vs.DataObject) and t.__name__ != "vmodl.DynamicData"


# On the wire a fault that is not thrown stands in a LocalizedMethodFault.  pyvmomi wraps and unwraps it by itself, and names
# the inner type only.
FAULT, WRAPPED = find("MethodFault"), find("LocalizedMethodFault")

ask = json.load(sys.stdin)
data, enums, todo = {}, {}, [find(n) for n in ask["types"]]


def want(t):
    """Take t itself along, if it is a type that can be."""
    if isinstance(t, type) and issubclass(t, list):
        t = t.Item
    if isinstance(t, type) and (issubclass(t, vs.DataObject)):
        todo.append(t)


methods = {}
managed = []
for name, wanted in ask["managed"].items():
    mo = find(name)
    infos = {}
    for cls in mo.mro():
        if hasattr(cls, "_GetMethodList"):
            for info in cls._GetMethodList():
                infos.setdefault(info.wsdlName, info)
    for w in wanted:
        if w not in infos:
            raise SystemExit(f"{name} has no method {w}")
        info = infos[w]
        methods[w] = info
        for p in info.params:
            want(p.type)
        if info.result is not vs.NoneType:
            want(info.result)
    managed.append((name, mo, wanted))

seen = set()
while todo:
    t = todo.pop()
    if t in seen or not is_data(t):
        continue
    seen.add(t)
    data[wsdl(t)] = t
    todo.append(t.__mro__[1])


def field(p, owner=None):
    t, array = p.type, False
    if isinstance(t, type) and issubclass(t, list):
        t, array = t.Item, True
    if t is FAULT and owner is not WRAPPED:
        t = WRAPPED
    out = {"name": p.name, "array": array, "optional": bool(p.flags & vs.F_OPTIONAL)}
    if t is object:
        out.update(kind="any", type="anyType")
    elif t is type or t is vs.ManagedMethod or t is vs.PropertyPath:
        out.update(kind="xsd", type="string")
    elif issubclass(t, vs.ManagedObject):
        out.update(kind="ref", type=wsdl(t))
    elif issubclass(t, vs.Enum):
        enums[wsdl(t)] = t
        out.update(kind="enum", type=wsdl(t))
    elif issubclass(t, vs.DataObject):
        out.update(kind="data" if t in seen else "opaque", type=wsdl(t))
    elif t.__name__ in XSD:
        out.update(kind="xsd", type=XSD[t.__name__])
    elif issubclass(t, str):
        out.update(kind="xsd", type="string")
    else:
        raise SystemExit(f"{p.name}: no idea what {t} is")
    return out


class Result:
    def __init__(self, info):
        self.name, self.type, self.flags = "returnval", info.result, info.resultFlags


def own(t):
    inherited = {p.name for p in t.__mro__[1]._GetPropertyList()} if hasattr(t.__mro__[1], "_GetPropertyList") else set()
    return [field(p, t) for p in t._GetPropertyList() if p.name not in inherited]


def base(t):
    b = t.__mro__[1]
    return wsdl(b) if b in seen else None


out = {"data": [], "enums": [], "managed": [], "methods": []}
for name, t in sorted(data.items()):
    out["data"].append({"name": name, "vmodl": t.__name__, "base": base(t), "fields": own(t)})
for name, mo, wanted in sorted(managed, key=lambda m: m[0]):
    supers = [wsdl(c) for c in mo.__mro__ if isinstance(c, type) and issubclass(c, vs.ManagedObject) and c is not vs.ManagedObject]
    props = [field(p) for p in mo._GetPropertyList()]
    out["managed"].append({"name": name, "supers": supers, "props": props, "methods": sorted(wanted)})
for name, info in sorted(methods.items()):
    out["methods"].append({
        "name": name, "params": [field(p) for p in info.params], "privilege": info.privId,
        "result": None if info.result is vs.NoneType else field(Result(info)),
    })
for name, t in sorted(enums.items()):
    out["enums"].append({"name": name, "vmodl": t.__name__, "values": [v for v in t.values if v != "unknown"] + (["unknown"] if "unknown" in t.values else [])})
json.dump(out, sys.stdout, indent=1)
