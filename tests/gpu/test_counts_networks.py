"""Networks of faces on a device that counts: crops, answers of detectors and faces stay there."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from accel.faces.detect import NEAR, Detector, whole_view
from accel.faces.face import make_face
from accel.faces.find import find_faces
from accel.faces.landmark import MeshNet, face_region
from accel.faces.onnx_swap import OnnxSwapper
from accel.faces.recognise import Recogniser
from accel.faces.swap import Job, SourceFace
from accel.kernels.planes import Planes
from accel.pipelines.demo import PORTRAIT
from accel.video.read import open_video
from accel.weights.assets import asset
from tests.gpu.fake_cuda import fake_cuda
from tests.gpu.fake_onnx import fake_onnx

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a real CUDA device is here")

SMALL = 1 << 15  # bytes: less than any picture that a network sees


@pytest.fixture(scope="module")
def portrait():
    with open_video(asset(PORTRAIT)) as reader:
        return next(iter(reader)).planes


def sent(planes):
    return Planes(*(p.to("cuda") for p in planes[:3]), planes.layout)


def ours(counts):
    return Counter({k: n for k, n in counts.launches.items() if k.startswith("triton:")})


def test_a_detector_tells_where_faces_are_and_nothing_else_comes_down(portrait):
    view = whole_view(portrait)
    expected = Detector(NEAR).find(portrait, view)
    with fake_cuda() as device, fake_onnx(device):
        detector, there = Detector(NEAR, device="cuda"), sent(portrait)
        detector.find(there, view)  # learns the sizes of what comes out
        before = device.counts.snapshot()
        found = detector.find(there, view)
        counts = device.counts.since(before)
    assert counts.networks == ["bound"]
    assert ours(counts) == {"triton:_kernel": 1, "triton:_decode_kernel": 1}
    assert counts.launched <= 6
    assert len(counts.waits) == len(counts.moved("down")) == 1
    assert max(c.nbytes for c in counts.copies) < SMALL
    assert len(found) == len(expected) >= 1
    for got, want in zip(found, expected):
        assert got.score == pytest.approx(want.score, abs=1e-3)
        np.testing.assert_allclose(got.region, want.region, atol=0.5)
        np.testing.assert_allclose(got.keypoints, want.keypoints, atol=0.5)


def test_landmarks_and_identities_take_one_wait_for_all_faces(portrait):
    meshes = find_faces(portrait)[0].raw + np.array([0.0, 3.0, -2.0]).reshape(3, 1, 1)
    regions = face_region(meshes)
    near = MeshNet()([portrait] * 3, list(regions[:, None]))
    vectors = Recogniser()([portrait], [meshes])
    with fake_cuda() as device, fake_onnx(device):
        mesh, who, there = MeshNet(device="cuda"), Recogniser(device="cuda"), sent(portrait)

        def look():
            return mesh([there] * 3, list(regions[:, None])), who([there], [meshes])

        look()
        before = device.counts.snapshot()
        far, named = look()
        counts = device.counts.since(before)
    assert set(counts.networks) == {"bound"}
    assert len(counts.waits) == len(counts.moved("down")) == 2  # landmarks; vectors
    assert max(c.nbytes for c in counts.copies) < SMALL
    np.testing.assert_allclose(far[0], near[0], atol=1.0)
    np.testing.assert_allclose(far[1], near[1], atol=1e-2)
    np.testing.assert_allclose(named, vectors, atol=1e-2)


def test_networks_on_the_host_take_frames_of_the_device(portrait):
    view = whole_view(portrait)
    [expected, *_] = Detector(NEAR).find(portrait, view)
    with fake_cuda():
        [found, *_] = Detector(NEAR).find(sent(portrait), view)
    np.testing.assert_allclose(found.region, expected.region, atol=0.5)


def swapper_file(path):
    """The signature of `blendswap`: the target, half as bright, and the source's mean colour."""
    floats = TensorProto.FLOAT
    nodes = [
        helper.make_node("ReduceMean", ["source"], ["mean"], axes=[2, 3], keepdims=1),
        helper.make_node("Add", ["target", "mean"], ["sum"]),
        helper.make_node("Mul", ["sum", "half"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes, "made up",
        [helper.make_tensor_value_info("target", floats, ["n", 3, 256, 256]),
         helper.make_tensor_value_info("source", floats, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("out", floats, ["n", 3, 256, 256])],
        [numpy_helper.from_array(np.float32(0.5), "half")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_swapper_reads_and_gives_faces_where_the_frames_lie(portrait, tmp_path):
    file, face = swapper_file(tmp_path / "blendswap.onnx"), find_faces(portrait)[0]
    picture = torch.rand(3, 200, 200, generator=torch.Generator().manual_seed(0))
    mesh = (face.raw * [0.2, 0.2, 0.2]).astype(np.float32)
    sources = [[SourceFace(picture, mesh)]]
    blank = make_face(
        track=0, landmarks=face.raw, raw=face.raw, iris=np.zeros((2, 5, 2)), score=1.0,
        identity=np.zeros(128),
    )  # fmt: skip
    near = OnnxSwapper(file, sources).swap([Job(portrait, blank, 0)] * 2)
    with fake_cuda() as device, fake_onnx(device):
        swapper, there = OnnxSwapper(file, sources, device="cuda"), sent(portrait)
        jobs = [Job(there, blank, 0)] * 2
        swapper.swap(jobs)
        before = device.counts.snapshot()
        far = swapper.swap(jobs)
        counts = device.counts.since(before)
        got = [(p.crop.cpu(), p.mask.cpu()) for p in far]
    assert set(counts.networks) == {"bound"}
    assert counts.waits == []
    assert not counts.moved("down")
    assert ours(counts) == {"triton:_kernel": 2}  # a crop each
    assert counts.launched <= 12
    for patch, want, (crop, mask) in zip(far, near, got):
        assert patch.crop.is_cuda
        assert not patch.matrix.is_cuda
        torch.testing.assert_close(patch.matrix, want.matrix)
        torch.testing.assert_close(crop, want.crop, rtol=0, atol=0.02)
        torch.testing.assert_close(mask, want.mask)
