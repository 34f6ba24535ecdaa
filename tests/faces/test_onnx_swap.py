"""Swappers in one file, on made-up networks of each signature whose answers are known exactly."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from accel.core import ConfigError, InputError
from accel.faces import onnx_swap
from accel.faces.align import transform
from accel.faces.crops import picture_planes, rgb_crops
from accel.faces.face import make_face
from accel.faces.mesh import CANONICAL, EYE_LEFT, EYE_RIGHT
from accel.faces.onnx_swap import box_mask, face_mask, own_mask
from accel.faces.swap import SWAPPERS, Job, SourceFace, open_swapper
from accel.faces.templates import TEMPLATES, five_points, template_matrix

F = TensorProto.FLOAT
SIDE = 300


# --- pictures and faces ---------------------------------------------------------------------------


def picture(seed=0):
    """Smooth, and different in each channel and corner."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = [0.5 + 0.4 * np.sin(3 * x + k + seed) * np.cos(2 * y - k) for k in range(3)]
    return (np.stack(waves, -1) * 255).round().astype(np.uint8)


def mesh_at(x=150.0, y=140.0, width=110.0, turn=0.1):
    """The canonical face seen from the front."""
    flat = CANONICAL * np.array([1, -1, -1]) * width / np.ptp(CANONICAL[:, 0])
    c, s = np.cos(turn), np.sin(turn)
    flat[:, :2] = flat[:, :2] @ np.array([[c, s], [-s, c]]) + (x, y)
    return flat


def face_of(landmarks, track=0):
    return make_face(
        track=track,
        landmarks=landmarks,
        raw=landmarks,
        iris=np.zeros((2, 5, 2)),
        score=1.0,
        identity=np.zeros(128),
    )


def job_of(pixels=None, source=0, **where):
    pixels = picture() if pixels is None else pixels
    return Job(picture_planes(pixels), face_of(mesh_at(**where)), source)


def source_of(pixels=None):
    pixels = picture(5) if pixels is None else pixels
    rgb = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    return SourceFace(rgb, mesh_at().astype(np.float32))


def plain(r, g, b):
    return np.broadcast_to(np.array([r, g, b], np.uint8), (SIDE, SIDE, 3)).copy()


# --- networks -------------------------------------------------------------------------------------


def save(path, nodes, inputs, outputs, constants):
    graph = helper.make_graph(
        nodes,
        "made up",
        [helper.make_tensor_value_info(n, F, s) for n, s in inputs],
        [helper.make_tensor_value_info(n, F, s) for n, s in outputs],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


EMAP = np.roll(np.eye(512, dtype=np.float32), 1, axis=1) * np.linspace(0.5, 2, 512, dtype="f4")


def target_and_source(path, size, source=(512,), reveal=False, keep=(1, 1, 1), constants=None):
    """Gives the target back, or shows the source's first three numbers (or its mean colour)."""
    if reveal:
        nodes = [
            helper.make_node("Slice", ["source", "zero", "three", "one"], ["head"])
            if len(source) == 1
            else helper.make_node("ReduceMean", ["source"], ["head"], axes=[2, 3], keepdims=0),
            helper.make_node("Reshape", ["head", "point"], ["pixel"]),
            helper.make_node("Mul", ["target", "none"], ["black"]),
            helper.make_node("Add", ["black", "pixel"], ["output"]),
        ]
        given = {
            "zero": np.array([0]), "three": np.array([3]), "one": np.array([1]),
            "point": np.array([1, 3, 1, 1]), "none": np.float32(0),
        }  # fmt: skip
    else:
        nodes = [
            helper.make_node("ReduceSum", ["source"], ["sum"], keepdims=1),
            helper.make_node("Mul", ["sum", "none"], ["nothing"]),
            helper.make_node("Mul", ["target", "keep"], ["kept"]),
            helper.make_node("Reshape", ["nothing", "point"], ["still nothing"]),
            helper.make_node("Add", ["kept", "still nothing"], ["output"]),
        ]
        given = {
            "none": np.float32(0), "point": np.array([1, 1, 1, 1]),
            "keep": np.array(keep, np.float32).reshape(1, 3, 1, 1),
        }  # fmt: skip
    return save(
        path,
        nodes,
        [("target", [1, 3, size, size]), ("source", [1, *source])],
        [("output", [1, 3, size, size])],
        given | (constants or {}),
    )


def recogniser(path, lift=(1.0, 1.0, 1.0)):
    """512 numbers: the mean colour of the crop, one channel after the other, and zeros."""
    weights = np.zeros((3, 512), np.float32)
    weights[[0, 1, 2], [0, 1, 2]] = lift
    return save(
        path,
        [
            helper.make_node("ReduceMean", ["input"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["mean", "weights"], ["embedding"]),
        ],
        [("input", [1, 3, 112, 112])],
        [("embedding", [1, 512])],
        {"weights": weights},
    )


def converter(path):
    return save(
        path,
        [helper.make_node("Mul", ["input", "two"], ["output"])],
        [("input", [1, 512])],
        [("output", [1, 512])],
        {"two": np.float32(2)},
    )


def dfm(path, size=64, keep=(1, 1, 1), morph=False, hole=False):
    """Gives the face back and two masks; the first may have its left half empty."""
    left = np.ones((1, size, size, 1), np.float32)
    if hole:
        left[:, :, : size // 2] = 0
    face = ["in_face:0", "keep"]
    nodes = [helper.make_node("Mul", face, ["shown" if morph else "out_celeb_face:0"])]
    if morph:
        nodes.append(helper.make_node("Mul", ["shown", "morph_value:0"], ["out_celeb_face:0"]))
    nodes += [
        helper.make_node("Slice", ["in_face:0", "a", "b", "axis"], ["channel"]),
        helper.make_node("Mul", ["channel", "none"], ["empty"]),
        helper.make_node("Add", ["empty", "left"], ["out_face_mask:0"]),
        helper.make_node("Add", ["empty", "full"], ["out_celeb_face_mask:0"]),
    ]
    masks = [size, size, 1]
    return save(
        path,
        nodes,
        [("in_face:0", ["N", size, size, 3])] + [("morph_value:0", [1])] * morph,
        [
            ("out_face_mask:0", ["N", *masks]),
            ("out_celeb_face:0", ["N", size, size, 3]),
            ("out_celeb_face_mask:0", ["N", *masks]),
        ],
        {
            "keep": np.array(keep, np.float32), "a": np.array([0]), "b": np.array([1]),
            "axis": np.array([3]), "none": np.float32(0), "left": left, "full": np.float32(1),
        },
    )  # fmt: skip


@pytest.fixture
def arcface(tmp_path):
    return recogniser(tmp_path / "arcface.onnx")


def opened(path, arcface=None, sources=None, **more):
    if "converter" not in more and arcface is not None:
        more["converter"] = converter(arcface.with_name("converter.onnx"))
    return open_swapper(path, sources or [[source_of()]], recogniser=arcface, **more)


FAMILIES = {  # file name, crop, source input, template, what is seen of rgb 0..1, rgb of that
    "inswapper": ("inswapper_128", 128, (512,), "arcface_128", None, None),
    "hyperswap": ("hyperswap_1a_256", 256, (512,), "arcface_128", "signed", "signed"),
    "simswap_256": ("simswap_256", 256, (512,), "arcface_112_v1", "imagenet", None),
    "simswap_512": ("simswap_unofficial_512", 512, (512,), "arcface_112_v1", None, None),
    "ghost": ("ghost_1_256", 256, (512,), "arcface_112_v1", "signed", "signed"),
    "hififace": ("hififace_unofficial_256", 256, (512,), "mtcnn", "signed", "signed"),
    "blendswap": ("blendswap_256", 256, (3, 112, 112), "ffhq", None, None),
    "uniface": ("uniface_256", 256, (3, 256, 256), "ffhq", "signed", "signed"),
}
INTO = {
    None: lambda rgb: rgb,
    "signed": lambda rgb: rgb * 2 - 1,
    "imagenet": lambda rgb: (rgb - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
}
BACK = {None: lambda seen: seen, "signed": lambda seen: (seen + 1) / 2}


# --- tests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_sees_and_gives_its_own_range_and_order(family, tmp_path, arcface):
    stem, size, source, template, into, back = FAMILIES[family]
    constants = {"emap": EMAP} if family == "inswapper" else {}
    keep = (1.0, 0.5, 0.25)  # told apart from blue first, and from any other scale
    path = target_and_source(tmp_path / f"{stem}.onnx", size, source, False, keep, constants)
    swapper = opened(path, arcface)
    job = job_of()
    (patch,) = swapper.swap([job])
    assert swapper.name == family
    matrix = template_matrix(job.face.landmarks, template, size)
    np.testing.assert_allclose(patch.matrix, matrix, atol=1e-4)
    rgb = rgb_crops(job.planes, patch.matrix[None].numpy(), size)[0]
    expected = BACK[back](INTO[into](rgb) * keep).clip(0, 1).transpose(2, 0, 1)
    np.testing.assert_allclose(patch.crop, expected, atol=1e-5)
    assert patch.mask.shape == (size, size)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_five_points_land_on_the_template(name):
    """Landmarks made from the template by a known similarity give that similarity back."""
    wanted = np.array(TEMPLATES[name]) * 128
    turned = (wanted @ np.array([[0.8, 0.6], [-0.6, 0.8]])) * 1.7 + (40, 60)
    landmarks = np.zeros((468, 3))
    right, left, nose, mouth_right, mouth_left = turned
    landmarks[list(EYE_RIGHT), :2] = right
    landmarks[list(EYE_LEFT), :2] = left
    landmarks[[1, 4, 61, 291], :2] = nose, nose, mouth_right, mouth_left
    np.testing.assert_allclose(five_points(landmarks), turned)
    matrix = template_matrix(landmarks, name, 128)
    np.testing.assert_allclose(transform(matrix, turned), wanted, atol=1e-9)


def test_templates_have_the_right_eye_on_the_left_and_the_mouth_below():
    for points in TEMPLATES.values():
        right, left, nose, mouth_right, mouth_left = np.array(points)
        assert right[0] < nose[0] < left[0]
        assert mouth_right[0] < mouth_left[0]
        assert right[1] < nose[1] < mouth_left[1]


def embedding_of(pixels, lift=(1.0, 1.0, 1.0)):
    """What the made-up recogniser says of a plain picture: rgb in -1..1, then zeros."""
    vector = np.zeros(512)
    vector[:3] = (pixels[0, 0] / 127.5 - 1) * lift
    return vector


def test_inswapper_is_told_the_embedding_times_its_matrix_at_length_one(tmp_path, arcface):
    path = target_and_source(
        tmp_path / "a.onnx", 128, reveal=True, constants={"emap": np.abs(EMAP)}
    )
    face = plain(255, 200, 150)
    (patch,) = opened(path, arcface, [[source_of(face)]]).swap([job_of()])
    embedding = embedding_of(face)
    expected = embedding / np.linalg.norm(embedding) @ np.abs(EMAP)
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(patch.crop[:, 5, 5], expected[:3], atol=1e-5)
    assert expected[1] != pytest.approx(expected[2], abs=0.05)


def test_ghost_is_told_the_embedding_as_it_is_and_hyperswap_at_length_one(tmp_path, arcface):
    face = plain(140, 150, 160)
    embedding = embedding_of(face)
    unit = embedding / np.linalg.norm(embedding)
    for stem, told in (("ghost_2_256", 2 * embedding), ("hyperswap_1b_256", unit)):
        path = target_and_source(tmp_path / f"{stem}.onnx", 256, reveal=True)
        (patch,) = opened(path, arcface, [[source_of(face)]]).swap([job_of()])
        np.testing.assert_allclose(patch.crop[:, 5, 5], (told[:3] + 1) / 2, atol=2e-4)


def test_several_pictures_of_one_person_are_averaged(tmp_path, arcface):
    path = target_and_source(tmp_path / "hyperswap.onnx", 256, reveal=True)
    faces = [plain(255, 128, 128), plain(128, 255, 128)]
    (patch,) = opened(path, arcface, [[source_of(f) for f in faces]]).swap([job_of()])
    units = [e / np.linalg.norm(e) for e in map(embedding_of, faces)]
    mean = sum(units) / np.linalg.norm(sum(units))
    np.testing.assert_allclose(patch.crop[:, 5, 5], (mean[:3] + 1) / 2, atol=1e-4)


def test_a_picture_as_the_source_keeps_its_order_and_range(tmp_path):
    face = plain(250, 120, 30)
    for stem, size in (("blendswap", 112), ("uniface", 256)):
        path = target_and_source(tmp_path / f"{stem}.onnx", 256, (3, size, size), reveal=True)
        (patch,) = opened(path, sources=[[source_of(face)]]).swap([job_of()])
        np.testing.assert_allclose(patch.crop[:, 9, 9], np.array([250, 120, 30]) / 255, atol=5e-5)


def test_dfm_sees_blue_first_and_its_answer_is_turned_back(tmp_path):
    swapper = opened(dfm(tmp_path / "someone.dfm", keep=(1, 0, 0)))
    assert swapper.name == "dfm"
    (patch,) = swapper.swap([job_of(plain(200, 100, 50))])
    expected = torch.tensor([0, 0, 50 / 255]).view(3, 1, 1).expand(3, 64, 64)
    torch.testing.assert_close(patch.crop, expected, rtol=0, atol=1e-5)


def test_dfm_takes_the_smaller_of_its_masks_and_softens_it(tmp_path):
    (patch,) = opened(dfm(tmp_path / "someone.dfm", 128, hole=True)).swap([job_of()])
    assert patch.mask[64, :50].max() < 0.02
    assert patch.mask[64, 90] > 0.95
    row = patch.mask[64, 50:90]
    assert (row[1:] >= row[:-1]).all()


def test_dfm_with_a_morph_value_is_given_all_of_it(tmp_path):
    swapper = opened(dfm(tmp_path / "someone.dfm", morph=True))
    both = swapper.swap([job_of(plain(200, 100, 50)), job_of(plain(10, 20, 30))])
    np.testing.assert_allclose(both[0].crop[:, 32, 32] * 255, [200, 100, 50], atol=1e-3)
    np.testing.assert_allclose(both[1].crop[:, 32, 32] * 255, [10, 20, 30], atol=1e-3)


def test_jobs_of_several_frames_and_identities_keep_their_order(tmp_path, arcface):
    path = target_and_source(tmp_path / "hyperswap.onnx", 256, reveal=True)
    people = [[source_of(plain(*c))] for c in ((255, 128, 128), (128, 128, 255))]
    swapper = opened(path, arcface, people)
    jobs = [job_of(source=s, x=x) for s, x in ((0, 140), (1, 150), (1, 160), (0, 130))]
    together = swapper.swap(jobs)
    assert swapper.network.batched
    assert swapper.swap([]) == []
    for job, patch in zip(jobs, together):
        (alone,) = swapper.swap([job])
        torch.testing.assert_close(patch.crop, alone.crop)
        torch.testing.assert_close(patch.mask, alone.mask)
        torch.testing.assert_close(patch.matrix, alone.matrix)
        assert patch.crop[0 if job.source == 0 else 2, 5, 5] > 0.95


def test_more_faces_than_one_run_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_swap, "MAX_BATCH", 2)
    swapper = opened(dfm(tmp_path / "someone.dfm"))
    greys = (10, 60, 110, 160, 210)
    patches = swapper.swap([job_of(plain(g, g, g)) for g in greys])
    assert [round(float(p.crop[0, 32, 32]) * 255) for p in patches] == list(greys)


def test_masks_end_before_the_crop_and_inside_the_face():
    box = box_mask(128)
    assert box[[0, -1]].max() == box[:, [0, -1]].max() == 0
    assert box[64, 64] > 0.999
    np.testing.assert_allclose(box, box[::-1, ::-1], atol=1e-6)
    landmarks = mesh_at()
    matrix = template_matrix(landmarks, "arcface_128", 128)
    mask = face_mask(landmarks, matrix, 128)
    points = transform(matrix, landmarks[:, :2])
    nose = np.round(points[1]).astype(int)
    assert mask[nose[1], nose[0]] > 0.99
    below = np.round(points[152] + (0, 3)).astype(int)  # under the chin
    if below[1] < 128:
        assert mask[below[1], below[0]] < 0.05
    assert own_mask(np.zeros((32, 32), np.float32)).max() == 0


def test_identity_pasted_back_lines_up_with_the_frame(tmp_path):
    """The crop is read by the matrix that the patch carries: a dot in the frame stays in place."""
    pixels = plain(0, 0, 0)
    pixels[150:153, 145:148] = 255
    (patch,) = opened(dfm(tmp_path / "someone.dfm", 128)).swap([job_of(pixels)])
    y, x = np.mgrid[:128, :128]
    weight = patch.crop[0].numpy() * (patch.crop[0].numpy() > 0.2)
    seen = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
    expected = transform(patch.matrix.numpy(), np.array([[146.0, 151.0]]))[0]
    np.testing.assert_allclose(seen, expected, atol=0.15)


def test_one_shape_of_several_families_asks_which(tmp_path, arcface):
    path = target_and_source(tmp_path / "model.onnx", 256)
    with pytest.raises(InputError, match="may be any of hyperswap, simswap_256, ghost, hififace"):
        opened(path, arcface)
    assert opened(path, arcface, spec="ghost").name == "ghost"
    with pytest.raises(InputError, match="does not fit the signature uniface: target"):
        opened(path, arcface, spec="uniface")
    with pytest.raises(ConfigError, match="kind must be one of inswapper"):
        opened(path, arcface, spec="deepest")


def test_an_unknown_signature_lists_what_was_found(tmp_path):
    path = save(
        tmp_path / "other.onnx",
        [helper.make_node("Relu", ["x"], ["y"])],
        [("x", [1, 7])],
        [("y", [1, 7])],
        {},
    )
    with pytest.raises(InputError, match=r"got x \[n, 7\] float32 -> y \[n, 7\] float32"):
        opened(path)


def test_missing_companions_are_named(tmp_path, arcface):
    path = target_and_source(tmp_path / "inswapper.onnx", 128, constants={"emap": EMAP})
    with pytest.raises(ConfigError, match=r"needs `recogniser`.*1x3x112x112"):
        opened(path)
    other = target_and_source(tmp_path / "ghost.onnx", 256)
    with pytest.raises(ConfigError, match="needs `converter`"):
        opened(other, arcface, converter=None)
    with pytest.raises(InputError, match="a recogniser must take 1x3x112x112"):
        opened(path, other, converter=None)


def test_an_inswapper_without_its_matrix_is_refused(tmp_path, arcface):
    path = target_and_source(tmp_path / "inswapper.onnx", 128)
    with pytest.raises(InputError, match="last initialiser must be a matrix 512x512"):
        opened(path, arcface)


def test_a_network_that_gives_another_size_is_refused(tmp_path):
    path = save(
        tmp_path / "small.dfm",
        [
            helper.make_node("Identity", ["in_face:0"], ["a"]),
            helper.make_node("AveragePool", ["in_face:0"], ["b"], kernel_shape=[2, 2]),
            helper.make_node("Identity", ["in_face:0"], ["c"]),
        ],
        [("in_face:0", ["N", 64, 64, 3])],
        [("a", ["N", 64, 64, 3]), ("b", ["N", 64, 63, 2]), ("c", ["N", 64, 64, 3])],
        {},
    )
    with pytest.raises(InputError, match=r"must give \[1, 3, 64, 64\], got \[1, 2, 64, 63\]"):
        opened(path).swap([job_of()])


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    path = dfm(tmp_path / "broken.dfm", keep=(float("nan"), 1, 1))
    with pytest.raises(InputError, match="not finite"):
        opened(path).swap([job_of()])


@pytest.mark.parametrize("name", ["mash", "model.bin", "folder/"])
def test_an_unknown_swapper_says_what_there_is(name):
    with pytest.raises(ConfigError, match=r"swapper must be mesh, FILE\.onnx or FILE\.dfm"):
        open_swapper(name, [[source_of()]])


def test_a_missing_file_and_missing_sources_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_swapper(tmp_path / "none.onnx", [[source_of()]])
    for sources in ([], [[]]):
        with pytest.raises(ConfigError, match="at least one source picture"):
            open_swapper("mesh", sources)


def test_every_row_of_the_registry_is_tested_here():
    assert set(SWAPPERS) == {*FAMILIES, "dfm"}


def test_sources_are_not_prepared_for_a_network_that_is_none(tmp_path):
    """A stranger's file must not cost the seconds that finding faces takes."""

    def sources():
        raise AssertionError("nobody asked for them")

    (tmp_path / "a.onnx").write_bytes(b"none")
    with pytest.raises(InputError, match="must be an ONNX model"):
        open_swapper(tmp_path / "a.onnx", sources)
